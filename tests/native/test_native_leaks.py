"""Calls leave no memory behind; `make leaks` makes 10⁵ of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_calls_leave_no_memory_behind() -> None:
    command = [sys.executable, str(Path(__file__).parent / "leaking_calls.py"), "72000"]
    # The address sanitizer would keep what is freed.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
    environment = os.environ | {"ASAN_OPTIONS": sanitizer}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["calls"] == 36000
