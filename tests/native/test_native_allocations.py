"""Memory or threads that are refused, one allocation at a time: an error, no abort, and nothing left behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
KINDS = {
    "layers": ["forward", "backward", "forward-double", "backward-double", "backward-states"],
    "transforms": ["samples", "members"],
    "modules": ["stack", "stack-rounded", "stack-backward", "stack-states", "cell"],
    "runtime": ["packing", "packing-halved", "whole", "stream", "pool", "opening"],
}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="preloads a library"),
    pytest.mark.skipif(COMPILER is None, reason="compiles a library to preload"),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "failing_new.so"
    command = [str(COMPILER), "-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "failing_new.cc")]
    subprocess.run([*command, "-ldl"], check=True)
    return library


def run(shim: Path, script: str, *arguments: str) -> list[list[str]]:
    # First, so that it is before the operators of a sanitizer that may be preloaded as well.
    preloaded = ":".join([str(shim), *filter(None, [os.environ.get("LD_PRELOAD")])])
    options = ":".join([*filter(None, [os.environ.get("ASAN_OPTIONS")]), "verify_asan_link_order=0"])
    environment = os.environ | {"LD_PRELOAD": preloaded, "ASAN_OPTIONS": options}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("group", KINDS)
def test_every_allocation_may_fail(shim: Path, group: str) -> None:
    lines = run(shim, "allocation_failures.py", *KINDS[group])
    assert [kind for kind, *_ in lines] == KINDS[group]
    for kind, count, without in lines:
        # Some are tried again when kept memory has been let go; not all can be.
        assert int(count) > 5, kind
        assert int(without) < int(count), kind


def test_threads_that_cannot_be_created_are_done_without(shim: Path) -> None:
    ((team, right, refused),) = run(shim, "thread_failures.py")
    assert team == "own"
    assert int(right) > 20
    assert int(refused) > 5
