"""Several processes train as one: the same batches, the same weights but for rounding, and one that writes."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import grouped
import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from gatewise.errors import InputError
from gatewise.machine import process
from gatewise.train import Group, Part, joined_group
from gatewise.train.run import dealt_out

Found = list[dict[str, Any]]
SIZES = grouped.SIZES


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    """What each process found, alone, of two and of three."""
    folder = tmp_path_factory.mktemp("groups")
    done = subprocess.run(
        [sys.executable, grouped.__file__, folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = {size: torch.load(folder / f"{size}.pt", weights_only=False) for size in (1, *SIZES)}
    found[0] = torch.load(folder / "others resumed.pt", weights_only=False)
    return found


@pytest.fixture(scope="module")
def alone(groups: dict[int, Found]) -> dict[str, Any]:
    return groups[1][0]


def _bits(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in weights.items()}


def _close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("what", ["windows", "turns", "few"])
@pytest.mark.parametrize("size", SIZES)
def test_parts_one_after_the_other_are_the_batch_of_one_process(
    size: int, what: str, groups: dict[int, Found], alone: dict[str, Any]
) -> None:
    turns = 2 if what == "turns" else 1
    batches: dict[tuple[int, int], list[tuple[int, int, list[int]]]] = {}
    for found in groups[size]:
        for epoch, step, index, count, rows in found[what]["drawn"]:
            batches.setdefault((epoch, step), []).append((index, count, rows))
    whole = {(epoch, step): [] for epoch in (1, 2, 3) for step in (1, 2, 3, 4)}
    for epoch, step, _, _, rows in alone[what]["drawn"]:
        whole[epoch, step] += rows
    assert batches.keys() == whole.keys()
    for place, parts in batches.items():
        assert [(index, count) for index, count, _ in sorted(parts)] == [(i, size * turns) for i in range(size * turns)]
        assert [row for _, _, rows in sorted(parts) for row in rows] == whole[place]
    assert all(len(rows) == (1 if what == "few" else 7) for rows in whole.values())


@pytest.mark.parametrize("what", ["windows", "turns", "few"])
@pytest.mark.parametrize("size", SIZES)
def test_weights_and_losses_are_those_of_one_process(
    size: int, what: str, groups: dict[int, Found], alone: dict[str, Any]
) -> None:
    for found in groups[size]:
        _close(found[what]["weights"], alone[what]["weights"])
        np.testing.assert_allclose(found[what]["losses"], alone[what]["losses"], rtol=1e-5)
        # No decay for what has no gradient, as alone.
        assert found[what]["weights"]["idle"].tolist() == [1, 1]
    assert not torch.equal(alone[what]["weights"]["head.weight"], grouped.Model().head.weight)


@pytest.mark.parametrize("size", SIZES)
def test_the_same_bits_in_every_process_and_every_time(size: int, groups: dict[int, Found]) -> None:
    first = groups[size][0]
    for found in groups[size]:
        assert _bits(found["windows"]["weights"]) == _bits(first["windows"]["weights"])
        assert _bits(found["again"]["weights"]) == _bits(first["windows"]["weights"])
        assert found["again"]["losses"] == first["windows"]["losses"]


@pytest.mark.parametrize("size", SIZES)
def test_processes_that_begin_with_weights_of_their_own_take_those_of_the_first(
    size: int, groups: dict[int, Found]
) -> None:
    for found in groups[size]:
        assert _bits(found["apart"]["weights"]) == _bits(groups[size][0]["windows"]["weights"])


@pytest.mark.parametrize("size", SIZES)
def test_processes_draw_numbers_of_their_own(size: int, groups: dict[int, Found]) -> None:
    # With the same, the dropout of all parts of a batch would be one and the same.
    assert len({found["chance"] for found in groups[size]}) == size


@pytest.mark.parametrize("size", SIZES)
def test_a_signal_to_one_process_stops_all_and_they_go_on_to_the_same_bits(size: int, groups: dict[int, Found]) -> None:
    first = groups[size][0]
    assert [found["cut"]["stopped"] for found in groups[size]] == [signal.SIGINT] * size
    assert [found["resumed"]["stopped"] for found in groups[size]] == [0] * size
    assert first["resumed"]["events"][0] == "resume"
    for found in groups[size]:
        assert _bits(found["resumed"]["weights"]) == _bits(first["whole"]["weights"])
    assert _bits(first["cut"]["weights"]) != _bits(first["whole"]["weights"])


@pytest.mark.parametrize("size", SIZES)
def test_only_the_first_writes_and_tells(size: int, groups: dict[int, Found]) -> None:
    for rank, found in enumerate(groups[size]):
        # Each process was given a folder of its own name; what "streams" has is the checkpoints of one folder for all.
        own = [name for name in found["written"] if not name.startswith("step-")]
        assert own == ["0", "0"]
        assert bool(found["whole"]["events"]) == (rank == 0)


@pytest.mark.parametrize("size", SIZES)
def test_carried_states_in_several_processes(size: int, groups: dict[int, Found], alone: dict[str, Any]) -> None:
    for found in groups[size]:
        _close(found["streams"]["weights"], alone["streams"]["weights"])
        _close(found["few streams"]["weights"], alone["few streams"]["weights"])
        # In the middle of a window's epoch, so that the states matter.
        assert found["streams cut"]["stopped"] == signal.SIGTERM
        assert len(found["streams cut"]["taken"]) == 5 < found["streams"]["windows"]
        assert found["streams resumed"]["taken"][0] == (1, 6)
        assert _bits(found["streams resumed"]["weights"]) == _bits(groups[size][0]["streams"]["weights"])


def test_another_number_of_processes_goes_on(groups: dict[int, Found], alone: dict[str, Any]) -> None:
    by_one = groups[0]
    by_three = [found["others resumed"] for found in groups[3]]
    for resumed in (*by_one, *by_three):
        assert resumed["taken"][0] == (1, 6)
        _close(resumed["weights"], alone["streams"]["weights"])


@pytest.mark.parametrize("size", SIZES)
def test_a_loss_that_is_no_number_names_the_part_that_it_came_from(size: int, groups: dict[int, Found]) -> None:
    said = {found["diverged"] for found in groups[size]}
    assert len(said) == 1
    assert "the loss became nan in epoch 1, step 1" in said.pop()
    assert f"The batch: part {size - 1}." in groups[size][0]["diverged"]


@pytest.mark.parametrize("size", SIZES)
def test_a_process_that_fails_ends_the_others(size: int, groups: dict[int, Found]) -> None:
    *others, failed = (found["lost"] for found in groups[size])
    assert failed == "OSError: the disk is gone"
    assert all(said.startswith("LostProcessError: the processes cannot go on together") for said in others)


@pytest.mark.parametrize("size", SIZES)
def test_two_share_memory_and_three_do_not(size: int, groups: dict[int, Found]) -> None:
    assert [found["shared"] for found in groups[size]] == [size == 2] * size


@pytest.mark.parametrize("size", SIZES)
def test_numbers_and_tensors_are_added_up_with_all_their_digits(size: int, groups: dict[int, Found]) -> None:
    ranks = range(size)
    for found in (each["sums"] for each in groups[size]):
        big, third, nan, inf, tiny = found["numbers"]
        assert big == sum(2**40 + 1 + rank for rank in ranks)
        assert third == pytest.approx(size / 3, rel=1e-14)
        assert nan != nan  # noqa: PLR0124
        assert inf == float("inf")
        assert tiny == pytest.approx(-1e-30 * size, rel=1e-7)
        ones, halves = found["tensors"]
        assert torch.equal(ones, torch.full((2, 3), float(sum(1 + rank for rank in ranks))))
        assert torch.equal(halves, torch.full((4,), 0.5 * size, dtype=torch.float64))


def test_parts_hold_every_row_once_and_in_order() -> None:
    for count in (1, 2, 3, 7, 40):
        for total in (0, 1, 2, 6, 7, 100):
            parts = [list(range(total))[Part(index, count).rows(total)] for index in range(count)]
            assert [row for part in parts for row in part] == list(range(total))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_a_launcher_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "1"):
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        with joined_group() as group:
            assert (group.rank, group.size, group.first) == (0, 1, True)
            assert not distributed.is_initialized()
            assert group.total(2.5, 3) == [2.5, 3]
            assert (group.gather("x"), group.spread("x")) == (["x"], "x")
    assert Group().part(1, 2) == Part(1, 2)


@pytest.mark.parametrize(
    ("size", "rank"), [("2", None), ("2", "2"), ("2", "-1"), ("0", "0"), ("two", "0"), ("", "0"), ("2", "x")]
)
def test_an_environment_that_makes_no_sense(size: str, rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(InputError, match="as no launcher sets them"):
        process()
    with pytest.raises(InputError, match="WORLD_SIZE="), joined_group():
        raise AssertionError("joined nothing")


def test_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match=r"cannot find each other.*MASTER_ADDR.*torchrun"), joined_group():
        raise AssertionError("joined nothing")


def test_what_is_carried_comes_back_to_its_process_or_is_dealt_out_by_rows() -> None:
    third = Part(2, 4)
    odd = [{"state": {"h": torch.full((1,), float(k))}, "count": k} for k in range(4)]
    assert dealt_out(odd, third) is odd[2]
    with pytest.raises(InputError, match=r"state, .* cannot be shared out anew: go on with 2 processes"):
        dealt_out(odd[:2], third)
    rows = [{"h": torch.arange(3.0)[:, None]}, {"h": torch.arange(3.0, 8.0)[:, None]}]
    assert dealt_out(rows, third)["h"].ravel().tolist() == [4.0, 5.0]
