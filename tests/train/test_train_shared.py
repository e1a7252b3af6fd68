"""Sums in memory that the processes of one machine share: the bits, and what becomes of those who wait in vain."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sharing
import torch

from gatewise import _native

Told = list[dict[str, Any]]
SHARED = Path("/dev/shm")


def _run(size: int, *words: str, local: int | None = None) -> tuple[list[Told], list[int]]:
    """What each process of a group told, and its exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": local or size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, sharing.__file__, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {name: str(value) for name, value in settings.items()} | {"RANK": str(rank)},
        )
        for rank in range(size)
    ]
    try:
        told = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(errors for _, errors in told), told
    return [[json.loads(line) for line in said.splitlines()] for said, _ in told], [p.returncode for p in processes]


def _left() -> set[Path]:
    return set(SHARED.glob("gatewise.*"))


@pytest.mark.parametrize("size", [2, 3])
def test_sums_in_the_order_of_the_processes(size: int) -> None:
    before = _left()
    told, status = _run(size, "sums")
    expected = []
    for dtype in (torch.float32, torch.float64):
        for count in sharing.SIZES:
            total = sharing.values(0, count, dtype)
            for rank in range(1, size):
                total += sharing.values(rank, count, dtype)
            expected.append(sharing.bits(total))
    ranks = sum((rank / 3 for rank in range(size)), 0.0)
    assert status == [0] * size
    for said in told:
        assert said[0] == {"shared": True}
        assert said[1] == {"sums": expected, "totals": [[0.0, ranks], [1999.0 * size, ranks]], "even": True}
        assert said[2] == {"left": True}
    assert _left() == before


@pytest.mark.parametrize("how", ["several machines", "no room"])
def test_without_memory_to_share_the_sums_go_through_torch(how: str) -> None:
    several = how == "several machines"
    told, status = _run(2, "sums", *([] if several else ["full"]), local=1 if several else None)
    with_it, _ = _run(2, "sums")
    assert status == [0, 0]
    for said, shared in zip(told, with_it, strict=True):
        assert said[0] == {"shared": False}
        # Of two, the order does not matter.
        assert said[1:] == shared[1:]


@pytest.mark.parametrize("how", ["killed", "raising"])
def test_whoever_waits_for_a_process_that_has_ended_is_told(how: str) -> None:
    begin, before = time.monotonic(), _left()
    (*others, last), status = _run(3, "ends", how)
    for said in others:
        assert said[1]["error"].startswith("LostProcessError: the processes cannot go on together")
        assert said[2] == {"left": True}
    assert last[1:] == ([] if how == "killed" else [{"error": "OSError: the disk is gone"}, {"left": True}])
    assert status == [0, 0, -signal.SIGKILL if how == "killed" else 0]
    assert time.monotonic() - begin < 60
    assert _left() == before


def test_the_core_takes_no_more_than_there_is_room_for() -> None:
    memory = torch.zeros(2**12, dtype=torch.uint8)
    address = memory.data_ptr() + -memory.data_ptr() % 64
    shared = _native.SharedSum(address, 1024, 0, 1)
    values = torch.arange(112.0)
    shared.put(values.data_ptr(), 448)
    assert shared.missing(0.0) is None
    with pytest.raises(ValueError, match="room"):
        shared.put(values.data_ptr(), 512)
    with pytest.raises(ValueError, match="room"):
        shared.sum_float64(values.data_ptr(), 100)
    for where, size, rank, count in ((address + 8, 1024, 0, 1), (address, 100, 0, 2), (address, 1024, 2, 2)):
        with pytest.raises(ValueError, match="no memory to share"):
            _native.SharedSum(where, size, rank, count)


def test_one_that_has_not_come_is_named() -> None:
    memory = torch.zeros(2**12, dtype=torch.uint8)
    address = memory.data_ptr() + -memory.data_ptr() % 64
    one, two = (_native.SharedSum(address, 2048, rank, 2) for rank in range(2))
    values = torch.ones(3)
    one.put(values.data_ptr(), 12)
    assert one.missing(0.01) == 1
    two.put(values.data_ptr(), 12)
    assert one.missing(10.0) is None
    one.sum_float32(values.data_ptr(), 3)
    assert values.tolist() == [2.0] * 3
