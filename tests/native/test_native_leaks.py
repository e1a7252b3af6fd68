"""Calls leave no memory behind; `make leaks` makes 10⁵ of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_calls_leave_no_memory_behind() -> None:
    command = [sys.executable, str(Path(__file__).parent / "leaking_calls.py"), "72000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["calls"] == 36000
