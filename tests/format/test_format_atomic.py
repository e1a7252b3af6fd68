"""A path holds its old content or all of the new one, and nothing lies beside it."""

import errno
import io
import os
import resource
from pathlib import Path

import pytest

from gatewise.errors import InputError
from gatewise.format import atomic_file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    return path


def _untouched(target: Path) -> None:
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["old.bin"]


def _half(target: Path, error: BaseException) -> None:
    with atomic_file(target) as file:
        file.write(b"half")
        raise error


def test_new_content_takes_the_place_of_the_old(target: Path) -> None:
    with atomic_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_path_as_text_and_a_new_file(tmp_path: Path) -> None:
    with atomic_file(str(tmp_path / "new file")) as file:
        file.write(b"x")
    assert (tmp_path / "new file").read_bytes() == b"x"


@pytest.mark.parametrize(("name", "said"), [("", "not the name of a file"), ("folder", "a folder"), ("pipe", "a pipe")])
def test_only_a_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    # Renaming a file onto a device, which root may, would take it from the whole machine.
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=f"cannot be written: it is .*{said}"), atomic_file(name):
        pytest.fail("opened")
    assert Path("pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_inside_keeps_the_old_content(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        _half(target, error())
    _untouched(target)


disk_errors = pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)


@disk_errors
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failing_disk_keeps_the_old_content(target: Path, monkeypatch, function: str, code: int) -> None:
    calls = []

    def fail(*args: object, **kwargs: object) -> None:
        calls.append(function)
        raise OSError(code, os.strerror(code))

    owner = os if function == "fsync" else Path
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fail)
        with pytest.raises(InputError, match=os.strerror(code)) as caught, atomic_file(target) as file:
            file.write(b"new")
    assert calls == [function]
    assert str(target) in str(caught.value)
    _untouched(target)


@disk_errors
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["at the flush", "at the write"])
def test_a_failing_write_keeps_the_old_content(target: Path, monkeypatch, size: int, code: int) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(code, os.strerror(code))

    made = []

    def opened(path: Path, mode: str) -> io.BufferedWriter:
        made.append(path)
        return io.BufferedWriter(Full(path, mode))

    monkeypatch.setattr("gatewise.format.atomic.open", opened, raising=False)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}"), atomic_file(target) as file:
        file.write(bytes(size))
    assert len(made) == 1
    _untouched(target)


@disk_errors
def test_a_failing_open_keeps_the_old_content(target: Path, monkeypatch, code: int) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("gatewise.format.atomic.open", refuse, raising=False)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}"):
        _half(target, AssertionError("the file must not open"))
    _untouched(target)


@disk_errors
def test_a_folder_that_cannot_be_made_to_last_is_told(target: Path, monkeypatch, code: int) -> None:
    fsync = os.fsync

    def fail(handle: int) -> None:
        if Path(f"/dev/fd/{handle}").is_dir():
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    told = f"is written, but may not outlast a power cut: {os.strerror(code)}"
    with pytest.raises(InputError, match=told), atomic_file(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_limit_of_the_system_keeps_the_old_content(target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match="cannot be written: File too large"), atomic_file(target) as file:
            file.write(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _untouched(target)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing/model cannot be written: No such file"):
        _half(tmp_path / "missing" / "model", AssertionError("the file must not open"))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="cannot be written"), atomic_file(tmp_path / "model") as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_content_and_folder_reach_the_disk_in_order(target: Path, monkeypatch) -> None:
    events = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        events.append("folder" if Path(f"/dev/fd/{handle}").is_dir() else "file")
        fsync(handle)

    def watched_replace(self: Path, to: Path) -> Path:
        assert self.parent == target.parent
        assert self.read_bytes() == b"new"
        events.append("replace")
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with atomic_file(target) as file:
        file.write(b"new")
    assert events == ["file", "replace", "folder"]
