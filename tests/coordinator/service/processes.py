"""A coordinator, and light peers, as real processes: port 0, always with a time limit, always reaped."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from coordinator.service.settings import ServiceSettings
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.values import PeerWish, WorkerInfo
from tests.coordinator.service.settled import settings

ROOT = Path(__file__).parents[3]
LIMIT = 30.0
T = TypeVar("T")


def until(look: Callable[[], T], what: str, limit: float = LIMIT) -> T:
    """Look again and again until there is something to see."""
    end, pause = time.monotonic() + limit, threading.Event()
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        pause.wait(0.01)


class Coordinator:
    """A coordinator's process; `start` may be called again after it died."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.settings: ServiceSettings = settings(**{"state": str(folder / "state"), **changes})
        self.address = self.settings.bind
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[StreamClient] = []

    def start(self, *arguments: str) -> Coordinator:
        """Start it, on the address that it had before; returns when it listens."""
        (self.folder / "settings.json").write_text(self.settings.model_dump_json())
        (self.folder / "address").unlink(missing_ok=True)
        command = [sys.executable, "-m", "coordinator.service", "--settings", str(self.folder / "settings.json")]
        command += ["--address-file", str(self.folder / "address"), "--bind", self.address, *arguments]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        self.address = until(self._listening, "the coordinator listens")
        return self

    def _listening(self) -> str:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        file = self.folder / "address"
        return file.read_text() if file.exists() else ""

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "log").read_text()

    def ended(self, limit: float = LIMIT) -> int:
        """Its exit code, when it ends by itself."""
        assert self.process is not None
        return self.process.wait(limit)

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(LIMIT)

    def client(self, *, shared: bool = True, **access: Any) -> StreamClient:
        """A client of it, which the test closes."""
        self.clients.append(StreamClient(Access(self.address, **access), shared=shared))
        return self.clients[-1]


@contextmanager
def coordinator(folder: Path, **changes: Any) -> Iterator[Coordinator]:
    """A coordinator that listens, and is gone afterwards."""
    made = Coordinator(folder, **changes)
    try:
        yield made.start()
    except BaseException:
        for client in made.clients:  # a test that failed could not; the next ones must not fail of it, too
            client.close()
        raise
    finally:
        made.kill()


class LightPeer:
    """A light peer's process, and what it wrote down."""

    def __init__(self, at: Coordinator, name: str, *arguments: str) -> None:
        self.out = at.folder / f"{name}.jsonl"
        command = [sys.executable, "-m", "tests.coordinator.service.light_peer", at.address, str(self.out), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT)

    def lines(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What it wrote down so far; a last line without an end is still being written."""
        text = self.out.read_text() if self.out.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if kind in (None, line["kind"])]

    def reap(self) -> None:
        """SIGKILL, and reaped."""
        self.process.kill()
        self.process.wait(LIMIT)


def receipts_agree(peers: Iterable[LightPeer]) -> dict[int, Any]:
    """All receipts of all peers: one for each round, whoever tells it; {round: receipt}."""
    seen: dict[int, Any] = {}
    for peer in peers:
        rounds = []
        for line in peer.lines("Consensus"):
            receipt = (line["epoch"], tuple(line["contributors"]), line["digest"])
            assert seen.setdefault(line["round"], receipt) == receipt, f"two receipts of round {line['round']}"
            rounds.append(line["round"])
        assert rounds == sorted(set(rounds)), "a round was told twice, or out of order"
    return seen


def info(*indices: int | None, shape: tuple[int, int] = (4, 8), **changes: Any) -> WorkerInfo:
    """What a worker with peers of these indices says of itself."""
    return WorkerInfo(
        "run", tuple(PeerWish(index) for index in indices or (None,)), shape, **{"window": 10.0, **changes}
    )


def together(*calls: Callable[[], T]) -> list[T]:
    """Run calls side by side, each in a thread; what they return, in order, or the first that raises."""
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(place: int) -> None:
        try:
            results[place] = calls[place]()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a call did not return"
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(calls))]
