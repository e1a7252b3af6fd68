"""A text file read in small chunks is the file read at once, or is refused with the same words."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewise.data.textfile import TextFile
from gatewise.errors import InputError

WHOLE = 1 << 20
TEXTS = st.text("ab 1,\"\n'é", max_size=6)


def outcome(path: Path, size: int, *, packed: bool = False) -> tuple[list, list] | str:
    """The header and the rows, or the words of the refusal."""
    try:
        file = TextFile(path, ",", packed=packed, size=size)
        rows = [row for chunk in file.chunks() for row in chunk.rows()]
    except InputError as error:
        return str(error)
    return file.header, rows


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(4, 60),
)
def test_chunks_of_whole_records(tmp_path: Path, rows: list, quoting: Any, end: str, size: int) -> None:
    text = io.StringIO(newline="")
    # A last column that is never blank keeps every record apart from a blank line.
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([("k", "v", "w"), *((*row, "end") for row in rows)])
    path = tmp_path / "t.csv"
    path.write_bytes(text.getvalue().encode())
    given_rows = [(k or None, v or None, "end") for k, v in rows]
    for asked in (size, WHOLE):
        found = outcome(path, asked)
        assert not isinstance(found, str), found
        assert found[0] == ["k", "v", "w"]
        assert [tuple(cell or None for cell in row) for row in found[1]] == given_rows
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert outcome(packed, size, packed=True) == outcome(path, size)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text('ab1,,"\n\r\0é', max_size=60), size=st.integers(4, 40))
def test_whether_a_file_is_refused_does_not_depend_on_the_chunks(tmp_path: Path, body: str, size: int) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + body.encode())
    cut, whole = outcome(path, size), outcome(path, WHOLE)
    if isinstance(cut, str) and isinstance(whole, str):
        # Of several faults, the one in the first chunk is named.
        assert "t.csv" in cut
        assert "t.csv" in whole
    else:
        assert cut == whole


@pytest.mark.parametrize("size", [8, WHOLE])
def test_damage_far_into_a_file_is_named_by_its_line(tmp_path: Path, size: int) -> None:
    rows = [f"a{i},{i}\n" for i in range(50)]
    cases = {
        "line 32 has 1 fields where the header has 2": [*rows[:30], "x\n", *rows[31:]],
        "line 32, column 2 holds a NUL byte": [*rows[:30], "x,\0\n", *rows[31:]],
        "line 51: the last row has 1 of 2 fields": [*rows[:49], "a4"],
        "line 42 has 3 fields": [*rows[:20], '"p\n' + "\n" * 9 + 'q",1\n', *rows[21:30], "x,y,z\n", *rows],
    }
    path = tmp_path / "t.csv"
    for said, lines in cases.items():
        path.write_text("k,v\n" + "".join(lines))
        assert said in str(outcome(path, size))
    path.write_bytes(b"k,v\n" + "".join(rows).encode() + b"x,\xff\n")
    assert "line 52, column 2 is not UTF-8" in str(outcome(path, size))
    path.write_text("k,v\n" + "".join(rows[:30]) + '"never closed\n' + "".join(rows))
    assert "line 32: the row cannot be read (its quotes do not close)" in str(outcome(path, size))


def test_quotes_inside_cells_are_read_by_the_csv_module(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('k,v\n5" pipe,1\n7" pipe, 2" long\n"a ""b""",3\n')
    for size in (6, WHOLE):
        assert outcome(path, size) == (["k", "v"], [('5" pipe', "1"), ('7" pipe', ' 2" long'), ('a "b"', "3")])


def test_some_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n\n4,5,6\n")
    chunks = list(TextFile(path, ",", size=7).chunks(["c", "a"]))
    assert pl.concat(chunks).rows() == [("3", "1"), ("6", "4")]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewise.data.textfile._LONGEST_LINE", 1000)
    path = tmp_path / "t.csv"
    path.write_text("k,v\n" + "x" * 5000)
    assert "line 2 is longer than" in str(outcome(path, 100))
    path.write_text("k,v\r" * 5000)
    assert "carriage returns" in str(outcome(path, 100))
