"""Journal of a run in the state folder: one line for each event that a replay needs. The service never reads it back.

    {"begun": "5f…", "run": "digits"}                     a new store: worker numbers and incarnations begin anew
    {"joined": 3, "peers": [2], "incarnations": [1]}      worker 3 was taken in
    {"formed": 0, "epoch": 1}                             the group begins, or begins again, at round 0
    {"round": 0, "epoch": 1, "digest": "9c…", "contributors": [0, 1], "members": [0, 1, 2]}
    {"round": 1, "epoch": 1, "digest": "07…"}                             contributors and members as in the line before
    {"round": 2, "epoch": 1, "void": "too few …"}
    {"gone": 3, "left": false, "why": "silent for …"}

What belongs to one step is appended in one write, after the store has kept it and before anybody is told. Nothing is
forced to the disk: the file survives the death of the process. When the coordinator starts, it is brought in line with
the store: a torn last line is cut, what the store knows nothing of is dropped, what it knows and the file lacks is
written. After the death of the machine several of the last rounds may be missing; a replay then says which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from coordinator.service.aggregate import Aggregation
from peers.common.json_lines import append_to, cut_torn_line
from protos.consensus_pb2 import OK

FILE = "journal.jsonl"
Key: TypeAlias = tuple[int, int, int]
"""Epoch, round, and 1 for a round that is over or 0 for a group that formed: within a store it always grows."""
_NOTHING: Key = (-1, 0, 0)


class RunJournal:
    """The history of one store.

    Args:
        folder: its folder.
        born: what tells the store from those that were in the folder before.
        run: its name.

    Raises:
        OSError: it cannot be read or written, of `note` and `catch_up` too.
    """

    def __init__(self, folder: Path, born: str, run: str) -> None:
        path = folder / FILE
        cut_torn_line(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._living: set[int] = set()
        self._formed: Key = _NOTHING
        self._contributors: tuple[int, ...] | None = None
        self._members: tuple[int, ...] | None = None
        self._epochs: tuple[int, int] | None = None
        try:
            self._own = _since(path.read_bytes(), born)
            if self._own is None:
                self._own = []
                append_to(self._file, _line({"begun": born, "run": run}))
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)

    def note(
        self, progress: Mapping[str, Any], membership: Mapping[str, Any] | None, outcome: Aggregation | None
    ) -> None:
        """What one step of the group has brought; arguments as of `Store.save`."""
        text = b"" if outcome is None else self._round(outcome)
        if membership is not None:
            text += b"".join(self._changes(membership))
        if progress["open"] and not progress["last"]:
            text += self._formation(progress)
        if text:
            append_to(self._file, text)

    def catch_up(self, progress: Mapping[str, Any], membership: Mapping[str, Any], outcome: Aggregation | None) -> None:
        """Bring the file in line with what the store has kept, once, before the first `note`."""
        last = progress["last"]
        if last:
            bound: Key = (last["epoch"], last["round"], 1)
        else:
            bound = (progress["open"][1], progress["open"][0], 0) if progress["open"] else _NOTHING
        newest = self._drop_beyond(bound)
        missing = outcome is not None and last and newest != bound
        self.note(progress, membership, outcome if missing else None)

    def _drop_beyond(self, bound: Key) -> Key:
        """Cut the file where it begins to tell of rounds that the store does not know; the key of the newest left."""
        own, self._own = self._own or [], []
        newest, kept = _NOTHING, own
        for place, (offset, line) in enumerate(own):
            key = _key(line)
            if key is not None and key > bound:
                os.ftruncate(self._file, offset)
                kept = own[:place]
                break
            newest = key or newest
        for _, line in kept:
            if "joined" in line:
                self._living.add(line["joined"])
            elif "gone" in line:
                self._living.discard(line["gone"])
            elif "formed" in line:
                self._formed = (line["epoch"], line["formed"], 0)
        return newest

    def _round(self, outcome: Aggregation) -> bytes:
        """The line of a round: by hand, for it is part of every one."""
        settled, participants = outcome.settled, outcome.settled.participants
        text = f'{{"round": {settled.round}, "epoch": {settled.epoch}'
        if settled.code != OK:
            text += f', "void": {json.dumps(settled.text)}'
        else:
            text += f', "digest": "{outcome.digest.hex()}"'
            if participants.contributors != self._contributors:
                self._contributors = participants.contributors
                text += f', "contributors": {list(participants.contributors)}'
        epochs = settled.epoch, participants.epoch
        if epochs != self._epochs:  # members change with the epoch alone
            self._epochs, before = epochs, self._members
            self._members = participants.members
            text += "" if self._members == before else f', "members": {list(self._members)}'
        return f"{text}}}\n".encode()

    def _changes(self, membership: Mapping[str, Any]) -> Iterator[bytes]:
        """Lines for who has come and gone since the last call."""
        workers = {worker["number"]: worker for worker in membership["workers"]}
        if self._living - workers.keys():
            gone = {kept["number"]: kept for kept in membership["gone"]}
            for number in sorted(self._living - workers.keys()):
                record = gone.get(number, {"left": False, "reason": "the group formed anew without it"})
                yield _line({"gone": number, "left": record["left"], "why": record["reason"]})
        for number in sorted(workers.keys() - self._living):
            record = workers[number]
            yield _line({"joined": number, "peers": record["peers"], "incarnations": record["incarnations"]})
        self._living = set(workers)

    def _formation(self, progress: Mapping[str, Any]) -> bytes:
        round_, epoch, _ = progress["open"]
        if self._formed == (epoch, round_, 0):
            return b""
        self._formed = (epoch, round_, 0)
        return _line({"formed": round_, "epoch": epoch})


def _since(data: bytes, born: str) -> list[tuple[int, dict[str, Any]]] | None:
    """Lines that follow a store's beginning, with their offsets; None where it has not begun.

    A line that is none counts as empty: the history may have a gap, which is no reason to end a run.
    """
    lines: list[tuple[int, dict[str, Any]]] | None = None
    at = 0
    for line in data.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        value = value if isinstance(value, dict) else {}
        if "begun" in value:
            lines = [] if value["begun"] == born else None
        elif lines is not None:
            lines.append((at, value))
        at += len(line)
    return lines


def _key(line: Mapping[str, Any]) -> Key | None:
    at, over = (line.get("round"), 1) if "round" in line else (line.get("formed"), 0)
    epoch = line.get("epoch")
    return (epoch, at, over) if isinstance(at, int) and isinstance(epoch, int) else None


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()
