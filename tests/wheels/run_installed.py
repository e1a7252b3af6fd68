"""The tests of an installed wheel, run by its own interpreter: what needs torch only where it is.

python tests/wheels/run_installed.py
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gatewise

TESTS = Path(__file__).parents[1]
FOLDERS = ["spec", "format", "runtime"]
WITH_TORCH = ["contract", "native"]
NEEDS_TORCH = [
    "spec/test_spec_equations.py",
    "format/test_format_blocks.py",
    "format/test_format_examples.py",
    "format/test_format_file.py",
    "runtime/test_runtime_executor.py",
    "runtime/test_runtime_model.py",
]
LEFT_OUT = {
    "native/test_native_allocations.py": "compiles what it preloads",
}
"""Tests that cannot run beside a wheel, where there is no compiler, each with its reason."""


def main() -> int:
    package = Path(gatewise.__file__)
    if not package.is_relative_to(sys.prefix):
        sys.exit(f"gatewise comes from {package.parent}, not from the environment {sys.prefix}.")
    torch = find_spec("torch") is not None
    chosen = [str(TESTS / name) for name in (FOLDERS + WITH_TORCH if torch else FOLDERS)]
    ignored = [f"--ignore={TESTS / name}" for name in (LEFT_OUT if torch else NEEDS_TORCH)]
    return pytest.main(["-q", "-p", "no:cacheprovider", *ignored, *chosen])


if __name__ == "__main__":
    sys.exit(main())
