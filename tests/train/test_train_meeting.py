"""Processes that find each other in a store where others have met before."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch._C._distributed_c10d import HashStore, Store

from gatewise.errors import LostProcessError
from gatewise.train.meeting import fresh_store


def _meet(store: Store, size: int) -> list[Store]:
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: fresh_store(store, rank, size), range(size)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_those_who_meet_share_what_is_new(size: int) -> None:
    store = HashStore()
    for attempt in ("first", "second", "third"):
        parts = _meet(store, size)
        assert not any(part.check(["address"]) for part in parts)
        parts[attempt == "second"].set("address", attempt)
        assert [part.get("address") for part in parts] == [attempt.encode()] * size


def test_an_attempt_that_was_cut_short_leaves_no_trace() -> None:
    store = HashStore()
    # The second process of an attempt asked, and was killed before it was answered; so was the first.
    store.set("gatewise/1", "asked")
    first, second = _meet(store, 2)
    first.set("address", "new")
    assert second.get("address") == b"new"


def test_alone_there_is_nobody_to_wait_for() -> None:
    assert not fresh_store(HashStore(), 0, 1).check(["address"])


def test_one_who_does_not_come_is_named() -> None:
    store = HashStore()
    with pytest.raises(LostProcessError, match="process 2 of 3 did not come"):
        fresh_store(store, 0, 3, limit=0.05)
