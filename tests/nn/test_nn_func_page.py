"""docs/func.md: every example of the page gives what it says."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "func.md"


def test_the_examples():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0
