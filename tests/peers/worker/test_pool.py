"""A pool runs peers side by side, in order, and loses neither results nor errors."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from peers.worker.pool import PeerPool

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host of four cores; a pool sets the threads of its process, which are put back."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[PeerPool]:
    """With a thread for all peers, or one for each."""
    made = PeerPool(4, CPU, threads=4 // request.param)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("size", "threads", "workers", "at_once"), [(4, 1, 1, 4), (2, 1, 1, 2), (9, 2, 1, 2), (4, 1, 2, 2), (4, 4, 1, 1)]
)
def test_as_many_peers_compute_at_once_as_there_are_cores_for(
    size: int, threads: int, workers: int, at_once: int
) -> None:
    """The host's cores, divided by threads and workers, are used by peers side by side; each has its threads."""
    pool = PeerPool(size, CPU, threads, workers)
    began, release = threading.Semaphore(0), threading.Event()
    seen: list[list[int]] = []

    def work(_: int) -> int:
        began.release()
        release.wait(20)
        return torch.get_num_threads()

    caller = threading.Thread(target=lambda: seen.append(pool.map(work, range(size))))
    caller.start()
    together = [began.acquire(timeout=20) for _ in range(at_once)]
    one_more = began.acquire(timeout=0.05)
    release.set()
    caller.join(20)
    pool.close()
    assert all(together)
    assert not one_more
    assert seen == [[threads] * size]


def test_results_come_in_the_order_of_the_peers(pool: PeerPool) -> None:
    """Whoever ends first, the results stand in their places."""
    assert pool.map(lambda peer: peer * 10, [3, 1, 2, 0]) == [30, 10, 20, 0]
    assert pool.map(lambda peer: peer, list(range(50))) == list(range(50))
    assert pool.map(lambda peer: peer, []) == []


def test_the_first_error_in_order_is_raised(pool: PeerPool) -> None:
    """Of several that fail, the first peer's error arrives, as it was, and the pool can go on."""

    def work(peer: int) -> int:
        if peer % 2:
            raise ValueError(f"peer {peer}")
        return peer

    with pytest.raises(ValueError, match=r"^peer 1$"):
        pool.map(work, [0, 1, 2, 3])
    assert pool.map(lambda peer: peer + 1, [1, 2]) == [2, 3]


def test_an_error_waits_for_the_others() -> None:
    """It is raised after all have ended: no peer still computes on what the caller then tears down."""
    pool, raised, release = PeerPool(2, CPU, 1), threading.Event(), threading.Event()
    ended: list[int] = []

    def work(peer: int) -> None:
        if peer == 0:
            raised.set()
            raise ValueError("peer 0")
        release.wait(20)
        ended.append(peer)

    outcome: list[BaseException] = []

    def call() -> None:
        try:
            pool.map(work, [0, 1])
        except ValueError as exc:
            outcome.append(exc)

    caller = threading.Thread(target=call)
    caller.start()
    assert raised.wait(20)
    caller.join(0.3)
    waited = caller.is_alive()
    release.set()
    caller.join(20)
    pool.close()
    assert [str(exc) for exc in outcome] == ["peer 0"]
    assert ended == [1]
    assert waited


@pytest.mark.parametrize(("threads_win", "slower"), [(False, True), (True, False)])
def test_the_faster_way_is_used_and_the_other_one_tried_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, threads_win: bool, slower: bool
) -> None:
    """A function of a millisecond, in threads or without: after the first call of each, the slower way is an exception.

    Once it has become the faster one, a try finds out.
    """
    now, lock = [0.0], threading.Lock()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    costs = {threads_win: 0.001, not threads_win: 0.002}
    ways: list[bool] = []

    def work(peer: int) -> None:
        with lock:
            in_thread = threading.current_thread() is not threading.main_thread()
            now[0] += costs[in_thread]
            if peer == 0:
                ways.append(in_thread)

    pool = PeerPool(2, CPU, 1)
    for _ in range(1000):
        pool.map(work, [0, 1])
    tries = [call for call, way in enumerate(ways) if way is slower and call > 1]
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert 3 <= len(tries) <= 5
    assert all(after > 1.9 * before for before, after in itertools.pairwise(gaps))
    costs[slower] = 0.0001
    for _ in range(1000):
        pool.map(work, [0, 1])
    pool.close()
    assert ways[-1] is slower


def test_closing_ends_the_threads(pool: PeerPool) -> None:
    """Nothing is left running, and closing twice is no error."""
    pool.map(lambda peer: peer, [0, 1])
    pool.close()
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("peer")]
