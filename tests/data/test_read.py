"""Readers: whole tables come in, broken files are refused with file and line, writing is atomic."""

import gzip
import os
import re
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from gatewise.data import read_table, textfile, to_polars, write_table
from gatewise.data.parse import parse_times
from gatewise.errors import InputError

WHOLE = "unique_id,ds,y\na,2020-01-01,1\na,2020-01-02,2.5\n"
FRAME = pl.DataFrame(
    {"unique_id": ["a", "a"], "ds": [date(2020, 1, 1), date(2020, 1, 2)], "y": [1.0, 2.5]},
)


def save(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(frame.to_arrow(), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.tsv", "t.parquet", "a table.csv"])
def test_every_format_reads_the_same_table(tmp_path: Path, name: str, packed: bool) -> None:
    if name.endswith("parquet"):
        data = parquet_bytes(FRAME)
    else:
        data = (WHOLE.replace(",", "\t") if name.endswith("tsv") else WHOLE).encode()
    path = save(tmp_path, name + ".gz" * packed, gzip.compress(data) if packed else data)
    assert_frame_equal(read_table(path), FRAME)
    assert_frame_equal(read_table(str(path)), FRAME)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2"], [1, 2]),
        (["1", "", "2.5"], [1.0, None, 2.5]),
        (["1", "NA", "nan"], [1, None, None]),
        ([" 1", " 2 "], [1, 2]),
        (["1", "x"], ["1", "x"]),
        (["007", "010"], ["007", "010"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["true", "False"], [True, False]),
        (["2020-01-01", "2020-01-02"], [date(2020, 1, 1), date(2020, 1, 2)]),
        (["2020-01-01 05:00", "2020-01-01 06:30"], [datetime(2020, 1, 1, 5), datetime(2020, 1, 1, 6, 30)]),
        (
            ["2020-01-01T05:00:00", "2020-01-01T05:00:00.5"],
            [datetime(2020, 1, 1, 5), datetime(2020, 1, 1, 5, 0, 0, 500_000)],
        ),
        (["01/02/2020", "02/02/2020"], ["01/02/2020", "02/02/2020"]),
        (["2020-01", "2020-02"], ["2020-01", "2020-02"]),
        (["NA", "none"], [None, None]),
        (["inf", "1"], [float("inf"), 1.0]),
    ],
)
def test_a_column_has_the_type_that_all_its_cells_share(tmp_path: Path, cells: list[str], values: list) -> None:
    path = save(tmp_path, "t.csv", "k,v\n" + "".join(f"k,{cell}\n" for cell in cells))
    assert read_table(path)["v"].to_list() == values


def test_a_late_float_makes_the_column_float(tmp_path: Path) -> None:
    path = save(tmp_path, "t.csv", "y\n" + "1\n" * 20_000 + "0.5\n")
    assert read_table(path)["y"].sum() == 20_000.5


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\r\n1,2\r\n3,4", [(1, 2), (3, 4)]),
        ("\ufeffa,b\n1,2\n", [(1, 2)]),
        ("a, b\n1,2\n\n3,4\n\n", [(1, 2), (3, 4)]),
        ('a,b\n"x, y",2\n"p\n\nq",4\n', [("x, y", 2), ("p\n\nq", 4)]),
        ('"a","b"\n"1","2"\n\n"3","4"\n', [(1, 2), (3, 4)]),
        ('a,b\n5" pipe,2\n', [('5" pipe', 2)]),
        ("b\n1\n\n3\n", [(1,), (None,), (3,)]),
        ("a,b\n1,\n2,\n", [(1, None), (2, None)]),
    ],
)
def test_csv_dialects(tmp_path: Path, text: str, rows: list) -> None:
    table = read_table(save(tmp_path, "t.csv", text))
    assert table.rows() == rows
    assert table.columns[-1] == "b"


DAMAGED = {
    "no byte": ("t.csv", b"", "empty"),
    "only line ends": ("t.csv", b"\n\n", "empty"),
    "empty parquet": ("t.parquet", b"", "empty"),
    "empty gzip": ("t.csv.gz", gzip.compress(b""), "empty"),
    "header only": ("t.csv", b"a,b\n", "header but no rows"),
    "header and blank lines": ("t.csv", b"a,b\n\n\n", "header but no rows"),
    "first line blank": ("t.csv", b"\na,b\n1,2\n", "line 1 is blank"),
    "unknown ending": ("t.xlsx", b"PK", r"must end in \.csv, \.tsv, \.parquet"),
    "no ending": ("table", b"a\n1\n", "must end in"),
    "cut in a row": (
        "t.csv",
        b"a,b,c\n1,2,3\n4,5",
        "line 3: the last row has 2 of 3 fields.*column 'c'.*cut in the middle",
    ),
    "cut in a quoted cell": ("t.csv", b'a,b\n1,"x"\n2,"y', "line 3.*quotes do not close.*cut"),
    "short row": (
        "t.csv",
        b"a,b,c\n1,2,3\n4,5\n6,7,8\n",
        "line 3 has 2 fields where the header has 3: .* before column 'c'",
    ),
    "short last row": ("t.csv", b"a,b,c\n1,2,3\n4,5\n", "line 3 has 2 fields where the header has 3"),
    "long row": ("t.csv", b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields where the header has 2: .* after column 'b'"),
    "short row after a cell of two lines": ("t.csv", b'a,b\n"x\ny",1\n2\n', "line 4 has 1 fields"),
    "text after a quote": ("t.csv", b'a,b\n"x"y,1\n', "line 2: the row cannot be read"),
    "NUL": ("t.csv", b"a,b\n1,2\n3,\x00\n", "line 3, column 2 holds a NUL byte"),
    "Latin-1": ("t.csv", "a,b\n1,é\n".encode("latin-1"), "line 2, column 2 is not UTF-8"),
    "UTF-16": ("t.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    "Parquet called CSV": ("t.csv", parquet_bytes(FRAME), r"Parquet file: name it \.parquet"),
    "gzip called CSV": ("t.csv", gzip.compress(b"a\n1\n"), r"gzip: add \.gz"),
    "spreadsheet called CSV": ("t.csv", b"PK\x03\x04rest", "spreadsheet"),
    "carriage returns": ("t.csv", b"a,b\r1,2\r", "carriage returns"),
    "duplicate names": ("t.csv", b"a,b, a\n1,2,3\n", "more than one column named 'a'"),
    "semicolons": ("t.csv", b"a;b\n1;2\n", "line 1 seems separated by semicolons"),
    "tabs in CSV": ("t.csv", b"a\tb\n1\t2\n", "separated by tabs"),
    "commas in TSV": ("t.tsv", b"a,b\n1,2\n", "separated by commas"),
    "no header": ("t.csv", b"0.5,1\n0.25,2\n", "line 1 holds numbers"),
    "not gzip": ("t.csv.gz", b"a,b\n1,2\n", "not compressed by gzip"),
    "truncated gzip": ("t.csv.gz", gzip.compress(WHOLE.encode() * 50)[:-9], "is cut"),
    "flipped gzip": ("t.csv.gz", bytes(b ^ (i == 40) for i, b in enumerate(gzip.compress(os.urandom(99)))), "damaged"),
    "CSV called Parquet": ("t.parquet", b"a,b\n1,2\n", "not a Parquet file"),
    "cut Parquet": ("t.parquet", parquet_bytes(FRAME)[:-7], "is cut"),
    "damaged Parquet": ("t.parquet", b"PAR1" + b"\xff" * 64 + b"PAR1", "damaged Parquet"),
    "Parquet without rows": ("t.parquet", parquet_bytes(FRAME.clear()), "no rows"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, case: str) -> None:
    name, data, message = DAMAGED[case]
    path = save(tmp_path, name, data)
    with pytest.raises(InputError, match=f"(?s){re.escape(str(path))}.*{message}") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named_with_close_names(tmp_path: Path) -> None:
    save(tmp_path, "train.csv", WHOLE)
    with pytest.raises(InputError, match=r"no such file: .*trian\.csv\. Did you mean train\.csv\?"):
        read_table(tmp_path / "trian.csv")
    with pytest.raises(InputError, match=r"no such file: .*zzz\. Check the path"):
        read_table(tmp_path / "zzz")
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "no folder" / "t.csv")
    with pytest.raises(InputError, match=r"no file matches .*\*\.tsv"):
        read_table(tmp_path / "*.tsv")
    with pytest.raises(InputError, match=r"is a folder: .*/\*\.csv"):
        read_table(tmp_path)


def test_a_glob_joins_files_by_name_and_types_them_together(tmp_path: Path) -> None:
    save(tmp_path, "2.csv", "y,id\n2.5,b\n")
    save(tmp_path, "1.csv", "id,y\na,1\n")
    assert read_table(tmp_path / "*.csv").rows() == [("a", 1.0), ("b", 2.5)]
    pl.DataFrame({"id": ["c"], "y": [3]}).write_parquet(tmp_path / "3.parquet")
    assert read_table(str(tmp_path / "*")).rows() == [("a", 1.0), ("b", 2.5), ("c", 3.0)]
    save(tmp_path, "[x].csv", "y\n1\n")
    assert read_table(tmp_path / "[x].csv").rows() == [(1,)]


def test_files_of_a_glob_must_agree(tmp_path: Path) -> None:
    save(tmp_path, "1.csv", "id,y\na,1\n")
    save(tmp_path, "2.csv", "id,z\na,1\n")
    with pytest.raises(InputError, match=r"2\.csv lacks the column 'y'.*1\.csv"):
        read_table(tmp_path / "*.csv")
    save(tmp_path, "2.csv", "id,y,z\na,1,2\n")
    with pytest.raises(InputError, match=r"2\.csv adds the column 'z'"):
        read_table(tmp_path / "*.csv")
    pl.DataFrame({"y": [1]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"y": ["a"]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: the column 'y' holds String where .* holds Int64"):
        read_table(tmp_path / "*.parquet")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.text("ab ,\"\n'é", max_size=4), st.floats(-1e6, 1e6)), min_size=2, max_size=5),
    data=st.data(),
)
def test_a_file_cut_in_its_last_row_is_refused_or_keeps_its_fields(tmp_path: Path, rows: list, data) -> None:
    # A first column that is never blank keeps every record apart from a blank line.
    frame = pl.DataFrame({"k": [f"k{text}" for text, _ in rows], "v": [value for _, value in rows], "w": "end"})
    whole = frame.write_csv().encode()
    assert read_table(save(tmp_path, "t.csv", whole)).select("k", "v").rows() == frame.select("k", "v").rows()
    shorter = frame.head(len(rows) - 1).write_csv().encode()
    cut = data.draw(st.integers(len(shorter) + 1, len(whole) - 1))
    path = save(tmp_path, "t.csv", whole[:cut])
    table, refusal = None, ""
    try:
        table = read_table(path)
    except InputError as error:
        refusal = str(error)
    if table is None:
        assert re.search(r"t\.csv, line \d+", refusal)
    else:
        # What is left is a row of all its fields, the last of them perhaps shorter: no byte can tell.
        assert table["k"].to_list() == frame["k"].to_list()
        assert table["v"].to_list() == frame["v"].to_list()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["t.csv", "t.tsv", "t.parquet", "t.csv.gz", "t.parquet.gz"]))
def test_any_bytes_give_a_table_or_a_sentence(tmp_path: Path, data: bytes, name: str) -> None:
    try:
        table = read_table(save(tmp_path, name, data))
    except InputError as error:
        outcome = name in str(error)
    else:
        outcome = table.height > 0
    assert outcome


@pytest.mark.parametrize(
    "make",
    [
        lambda f: f,
        lambda f: f.lazy(),
        lambda f: f.to_pandas(),
        lambda f: f.to_arrow(),
        lambda f: f.to_pandas().set_index(["unique_id", "ds"]),
    ],
    ids=["polars", "lazy", "pandas", "pyarrow", "pandas with a named index"],
)
def test_frames_of_other_libraries(make) -> None:
    got = to_polars(make(FRAME))
    assert got.columns == FRAME.columns
    assert got["y"].to_list() == [1.0, 2.5]
    assert got["unique_id"].cast(pl.String).to_list() == ["a", "a"]
    assert got["ds"].cast(pl.Date).to_list() == FRAME["ds"].to_list()


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    assert_frame_equal(to_polars(str(save(tmp_path, "t.csv", WHOLE))), FRAME)
    for thing in ({"y": [1]}, [1.0], 3, None, FRAME["y"]):
        with pytest.raises(InputError, match="a table is expected, not"):
            to_polars(thing)
    with pytest.raises(InputError, match="cannot be converted"):
        to_polars(pd.DataFrame({"y": [1, "a", {}]}))


@pytest.mark.parametrize("name", ["out.csv", "out.PARQUET"])
def test_written_tables_read_back_and_leave_nothing_else(tmp_path: Path, name: str) -> None:
    zoned = FRAME.with_columns(at=pl.col("ds").cast(pl.Datetime("us")).dt.replace_time_zone("Etc/GMT-2"))
    for frame in (FRAME, zoned):
        write_table(frame, tmp_path / name)
        assert_frame_equal(read_table(tmp_path / name), frame)
    assert os.listdir(tmp_path) == [name]
    plain = save(tmp_path, "plain", "")
    assert (tmp_path / name).stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = save(tmp_path, "out.csv", "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=r"out\.csv cannot be written: No space left"):
        write_table(FRAME, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_tables_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.csv or \.parquet"):
        write_table(FRAME, tmp_path / "out.json")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        write_table(FRAME, tmp_path / "absent" / "out.csv")
    with pytest.raises(InputError, match="cannot be written"):
        write_table(pl.DataFrame({"y": [[1]]}), tmp_path / "out.csv")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("cells", "zone", "hour"),
    [
        (["2020-06-01T05:00:00Z", "2020-06-01T06:00:00+00:00"], "UTC", 5),
        (["2020-06-01T05:00:00+02:00", "2020-06-01T06:00:00+0200"], "Etc/GMT-2", 5),
        (["2020-06-01 05:00-05", "2020-06-01 06:00-05"], "Etc/GMT+5", 5),
        (["2020-06-01 05:00:00.25+05:30", "2020-06-01 06:00:00.25+05:30"], "UTC", 23),
        (["2020-06-01 05:00", "2020-06-01 06:00"], None, 5),
    ],
)
def test_one_offset_from_utc_is_kept(cells: list[str], zone: str | None, hour: int) -> None:
    times, problem = parse_times(pl.Series(cells))
    assert problem == ""
    assert times is not None
    assert isinstance(times.dtype, pl.Datetime)
    assert times.dtype.time_zone == zone
    assert times[0].hour == hour
    assert (times[1] - times[0]).total_seconds() == 3600


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["2020-06-01T05:00+01:00", None, "2020-06-01T06:00+02:00"], "mixes time zones .*row 3"),
        (["2020-06-01T05:00", "2020-06-01T06:00Z"], "mixes time zones .*Z in row 2"),
        (["2020-06-01T05:00", "2020-06-01"], "row 2 holds '2020-06-01'"),
        (["2020-06-01", "2020-06-31"], "row 2 holds '2020-06-31'"),
        (["2020-06-01T05:00Z", "2020-06-01T25:00Z"], "row 2 holds"),
        (["June 2020"], "row 1 holds 'June 2020'"),
        ([None], "no value"),
    ],
)
def test_stamps_that_are_not_alike(cells: list, message: str) -> None:
    times, problem = parse_times(pl.Series(cells, dtype=pl.String))
    assert times is None
    assert re.search(message, problem)


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (["9007199254740992", "9007199254740993", "1.5"], True),
        (["1e400", "2e500", "77"], True),
        (["1e400", "inf", "77"], True),
        (["9007199254740991", "1.5"], False),
        (["inf", "-Infinity", "77"], False),
        (["1e300", "0.1"], False),
    ],
)
def test_numbers_that_would_become_others_stay_text(tmp_path: Path, cells: list[str], kept: bool) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("\n".join(["id,y", *(f"{cell},1" for cell in cells)]) + "\n")
    ids = read_table(path)["id"]
    assert (ids.dtype == pl.String) == kept
    if kept:
        assert ids.to_list() == cells


def test_a_quote_that_never_closes_is_named_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "_LONGEST_LINE", 2_000)
    path = tmp_path / "table.csv"
    rows = "".join(f"{k},1\n" for k in range(2_000))
    path.write_text(f'a,y\n1,2\n2,"2\n{rows}')
    with pytest.raises(InputError, match=r"line 3: (its quotes do not close|the row cannot be read)"):
        list(textfile.TextFile(path, ",", size=500).chunks())
