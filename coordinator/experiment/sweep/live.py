"""What ASHA sees of a group: its live k-NN gain on validation images, and the mark of one that was stopped for it."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from peers.common.files import write_atomically
from peers.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Seen:
    """A group at a look.

    Attributes:
        rounds: that it had done.
        gain: points of live k-NN over its networks at initialization, on validation images; mean over its peers.
    """

    rounds: int
    gain: float


class Live:
    """Reads what is new in a group's metrics.jsonl.

    Args:
        path: of the file; it may not exist yet.
        peers: of the group: a round counts once all have been measured.
    """

    def __init__(self, path: Path, peers: int) -> None:
        self._path, self._peers = path, peers
        self._position, self._inode = 0, 0
        self._before: dict[int, float] = {}
        self._now: dict[int, dict[int, float]] = {}

    def poll(self) -> list[Seen]:
        """All measured rounds that were not told yet; again from the start where a resumed run has trimmed the file."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._position = inode, 0
                    self._before, self._now = {}, {}
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.splitlines():
            record = json.loads(line)
            if "knn_live_baseline" in record:
                self._before[record["peer"]] = record["knn_live_baseline"]
            if "knn_live" in record:
                self._now.setdefault(record["round"] + 1, {})[record["peer"]] = record["knn_live"]
        return [self._seen(rounds) for rounds in sorted(self._now) if len(self._now[rounds]) == self._peers]

    def _seen(self, rounds: int) -> Seen:
        now = self._now.pop(rounds)
        return Seen(rounds, statistics.fmean(now[peer] - self._before[peer] for peer in sorted(now)))


def stopped(folder: RunFolder) -> Seen | None:
    """What ASHA saw when it stopped a run; None if it did not."""
    path = _mark(folder)
    return Seen(**json.loads(path.read_bytes())) if path.is_file() else None


def mark_stopped(folder: RunFolder, seen: Seen) -> None:
    """Remember that ASHA has stopped a run: it is not run again, not even if it had ended before it heard of it."""
    write_atomically(_mark(folder), json.dumps(asdict(seen)).encode())


def _mark(folder: RunFolder) -> Path:
    return folder.path / "stopped.json"
