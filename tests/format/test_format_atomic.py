"""A path holds its old content or all of the new one, and nothing lies beside it."""

import errno
import os
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


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_inside_keeps_the_old_content(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        _half(target, error())
    _untouched(target)


@pytest.mark.parametrize(("function", "code"), [("fsync", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EIO)])
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


def test_a_failing_write_keeps_the_old_content(target: Path) -> None:
    with pytest.raises(InputError, match="No space left"):
        _half(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
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
