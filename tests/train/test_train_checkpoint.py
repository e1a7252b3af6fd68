"""Checkpoints hold what they were given, bit by bit, or are refused; a disk that fails keeps the last good ones."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resumable import Told
from torch import Tensor

from gatewise.errors import InputError
from gatewise.train import Checkpoints, DamagedCheckpointError, Plan, read_checkpoint, train

STATE: dict[str, Any] = {
    "whole": 3,
    "long": 2**80,
    "real": 0.1 + 0.2,
    "inf": float("-inf"),
    "text": "a ü \n",
    "flag": True,
    "none": None,
    "empty": [],
    "nested": {"list": [1, (2.5, None)], 7: "key", "deep": {"tensor": torch.arange(6).reshape(2, 3)}},
    "float": torch.tensor([1.5, float("nan"), -0.0]),
    "scalar": torch.tensor(4.0),
    "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "bools": torch.tensor([True, False]),
    "bytes": torch.get_rng_state(),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "array": np.arange(3, dtype=np.uint32),
    "none at all": torch.zeros(0, 4),
}


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        if type(one) is not type(two) or one.dtype != two.dtype or one.shape != two.shape:
            return False
        return torch.equal(_raw(torch.as_tensor(one)), _raw(torch.as_tensor(two)))
    if isinstance(one, dict):
        return list(one) == list(two) and all(_same(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(_same, one, two))
    return type(one) is type(two) and one == two


def _raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.ndim and tensor.numel() else tensor


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path / "new" / "folder").save(12, STATE)
    assert path.name == "step-0000000012.checkpoint"
    state = read_checkpoint(path)
    assert state.pop("identity") == {}
    assert _same(state, STATE)


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    state = read_checkpoint(Checkpoints(tmp_path).save(0, {"whole": whole, "part": whole[1:3], "again": whole}))
    assert _same(state["part"], torch.tensor([1.0, 2.0]))
    assert _same(state["again"], whole)


def test_random_states_come_back(tmp_path: Path) -> None:
    states = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}  # noqa: NPY002
    wanted = random.random(), np.random.standard_normal()  # noqa: NPY002
    state = read_checkpoint(Checkpoints(tmp_path).save(0, states))
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    assert (random.random(), np.random.standard_normal()) == wanted  # noqa: NPY002


def test_what_is_not_data_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold function"):
        Checkpoints(tmp_path).save(0, {"code": test_what_is_not_data_is_refused_and_nothing_is_written})
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, identity={"data": "abc"})
    path = checkpoints.save(1, {"weights": torch.arange(3.0), "step": 1})
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in (0, 3, 7):
            path.write_bytes(good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :])
            with pytest.raises(DamagedCheckpointError, match="damaged"):
                read_checkpoint(path)
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(DamagedCheckpointError, match="damaged"):
            read_checkpoint(path)
    path.write_bytes(good + b"x")
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        read_checkpoint(path)


def test_the_last_two_are_kept_and_the_last_whole_one_is_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (9, 10, 100):
        checkpoints.save(step, {"step": step})
    (tmp_path / "notes.txt").write_text("mine")
    names = ["notes.txt", "step-0000000010.checkpoint", "step-0000000100.checkpoint"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert checkpoints.last() == ({"identity": {}, "step": 100}, [])

    newest = tmp_path / names[2]
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    state, notes = checkpoints.last()
    assert state is not None
    assert state["step"] == 10
    assert notes == [f"{newest} is damaged: it is not the bytes that were saved."]

    (tmp_path / names[1]).write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read: .*step-0000000100.*step-0000000010.*anew"):
        checkpoints.last()


def test_none_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "not there").last() == (None, [])
    assert Checkpoints(tmp_path).last() == (None, [])


def test_another_run_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    Checkpoints(tmp_path, identity={"horizon": 4, "levels": (0.1, 0.9)}).save(1, {})
    assert Checkpoints(tmp_path, identity={"horizon": 4, "levels": (0.1, 0.9)}).last()[0] is not None
    for identity, said in [
        ({"horizon": 5, "levels": (0.1, 0.9)}, "horizon was 4 and is 5 now"),
        ({"horizon": 4}, r"levels was \[0.1, 0.9\] and is None now"),
        ({"horizon": 4, "levels": (0.1, 0.9), "data": "x"}, "data was None and is 'x' now"),
    ]:
        with pytest.raises(InputError, match=said):
            Checkpoints(tmp_path, identity=identity).last()


def test_what_a_killed_save_left_is_removed_and_only_that(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, resume=True)
    checkpoints.save(1, {})
    (tmp_path / ".step-0000000002.checkpoint.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-0000000001.checkpoint"]
    Checkpoints(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- a disk that fails while a run goes on


def _run(folder: Path, told: Told) -> bytes:
    torch.manual_seed(0)
    line, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 8)[:, None]

    def loss(x: Tensor) -> tuple[Tensor, int]:
        return (line(x) - 3 * x).square().sum(), len(x)

    plan = Plan(epochs=2, steps=3, save_every=1)
    train(
        line,
        loss,
        lambda *_: x,
        plan,
        checkpoints=Checkpoints(folder),
        on_event=told.hear,
    )
    return b"".join(value.numpy().tobytes() for value in line.state_dict().values())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("function", ["write", "fsync", "replace", "mkdir"])
def test_fault_26_a_disk_that_fails_leaves_the_last_good_checkpoint_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    undisturbed = _run(tmp_path / "whole", Told())
    folder, told = tmp_path / "run", Told()
    good = Checkpoints(folder).save(0, {"step": 0}) if function != "mkdir" else None
    calls = 0

    def fail(*_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if function == "write":
            patch.setattr("builtins.open", _opener(open, fail))
        elif function == "mkdir":
            patch.setattr(Path, "mkdir", fail)
        else:
            patch.setattr(os, function, fail)
        # The new run must not remove what it cannot replace.
        patch.setattr(Checkpoints, "clear", lambda self: None)
        assert _run(folder, told) == undisturbed
    assert calls == 6
    assert [name for name, _ in told] == ["unsaved"] * 6
    assert [(values["epoch"], values["step"]) for _, values in told][:4] == [(1, 1), (1, 2), (2, 0), (2, 1)]
    assert all(os.strerror(code) in values["error"] for _, values in told)
    if good is None:
        assert not folder.exists()
    else:
        assert list(folder.iterdir()) == [good]
        assert read_checkpoint(good)["step"] == 0


def _opener(plain: Any, fail: Any) -> Any:
    def open_for(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = plain(path, mode, *args, **kwargs)
        if "x" not in mode:
            return file

        class Broken:
            write = staticmethod(fail)

            def __enter__(self) -> "Broken":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

        return Broken()

    return open_for


def test_a_save_that_fails_is_warned_of_where_nobody_listens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    line = torch.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match="no checkpoint was saved: .*file.* cannot be made"):
        train(
            line, lambda x: (line(x).sum(), 1), lambda *_: torch.ones(1, 1), Plan(1, 1),
            checkpoints=Checkpoints(tmp_path / "file" / "run"),
        )  # fmt: skip


def test_a_step_is_told_before_its_checkpoint(tmp_path: Path) -> None:
    told: list[object] = []
    line = torch.nn.Linear(1, 1)
    train(
        line, lambda x: (line(x).sum(), 1), lambda *_: torch.ones(1, 1), Plan(2, 4, save_every=3),
        checkpoints=Checkpoints(tmp_path),
        on_step=lambda step: told.append((step.epoch, step.step)), on_event=lambda name, **values: told.append(
            (name, values["epoch"], values["step"], Path(values["path"]).name)
        ),
    )  # fmt: skip
    assert told == [
        (1, 1), (1, 2), (1, 3), ("checkpoint", 1, 3, "step-0000000003.checkpoint"),
        (1, 4), ("checkpoint", 2, 0, "step-0000000004.checkpoint"),
        (2, 1), (2, 2), ("checkpoint", 2, 2, "step-0000000006.checkpoint"), (2, 3), (2, 4),
        ("checkpoint", 3, 0, "step-0000000008.checkpoint"),
    ]  # fmt: skip
