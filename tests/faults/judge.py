"""What must be true after any run in which faults happened, whatever they were.

Every planned fault fired, counted by kind. All members of a round have the same receipt, which is of more than one
peer. Nobody stepped toward anything but the consensus: `coordinator.replay` does every round again, from the journals.
No round took longer than its deadline and a second (more where the machine is slow: `pace`), and the time that the
coordinator itself was away. The run ended, for all, with exit code 0. Nothing is left: no process, port, shared memory,
file aside, descriptor.
"""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from coordinator.replay import Replayed, replay
from peers.runs.metrics import records
from tests.faults.harness import Told, segments
from tests.faults.pace import pace
from tests.faults.worker import held

SLACK = 1.0
"""Seconds beside the deadline: DESIGN.md's bound counts the exchange, a round is also a forward pass and a step."""
_ASIDE = re.compile(r"\..*\.new|latest\.new|.*\.tmp")


def judge(told: Told) -> None:
    """All of it.

    Raises:
        AssertionError: names what is not as it must be.
    """
    assert told.fired == told.plan.counted(), f"planned {told.plan.counted()}, fired {told.fired}"
    rounds = receipts(told.folder)
    assert rounds == set(range(max(rounds) + 1)) - voided(told.folder), "rounds are missing"
    bounded(stalls(told.folder, told.faults), told.deadline, told.away, pace().factor())
    wrong = {name: told.outputs[name][-2000:] for name, code in told.codes.items() if code != 0}
    assert not wrong, f"did not end well: {wrong}"
    left_nothing(told)
    replayed(told.folder, told.state)


def receipts(folder: Path) -> set[int]:
    """Rounds that were closed; all of their members have the same receipt, which is of two peers at least."""
    seen: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for record in records(folder / "metrics.jsonl"):
        if "receipt" in record:
            seen[record["round"]].add((record["receipt"], record["count"]))
    different = {round_: found for round_, found in seen.items() if len(found) != 1}
    assert not different, f"members of a round got different receipts: {different}"
    alone = [round_ for round_, found in seen.items() for _, count in found if count < 2]
    assert not alone, f"rounds with fewer than two peers have closed: {alone}"
    return set(seen)


def voided(folder: Path) -> set[int]:
    """Rounds that somebody was told are void."""
    return {record["round"] for record in records(folder / "metrics.jsonl") if record.get("skipped") == "void"}


def stalls(folder: Path, faults: Path) -> dict[int, float]:
    """Seconds that each round took for the member it took longest for; without the wait at the gate before it."""
    waited: dict[tuple[int, int], float] = defaultdict(float)
    for line in held(faults):
        for peer in line["peers"]:
            waited[line["round"], peer] += line["seconds"]
    found: dict[int, float] = defaultdict(float)
    for record in records(folder / "metrics.jsonl"):
        if "seconds" in record:
            took = record["seconds"] - waited[record["round"], record["peer"]]
            found[record["round"]] = max(found[record["round"]], took)
    return found


def bounded(seconds: Mapping[int, float], deadline: float, away: Sequence[float], slow: float = 1.0) -> None:
    """No round took longer than the bound; one each may have waited for a coordinator that was away, too.

    Args:
        seconds: of each round.
        deadline: the round deadline.
        away: seconds of each time that the coordinator was away.
        slow: factor by which the machine was slower than at its quickest; stretches the slack, not the deadline.
    """
    longest = sorted(((took, round_) for round_, took in seconds.items()), reverse=True)
    excused = sorted(away, reverse=True)
    for place, (took, round_) in enumerate(longest):
        bound = deadline + SLACK * slow + (excused[place] if place < len(excused) else 0.0)
        assert took <= bound, f"round {round_} took {took:.2f} s, its bound is {bound:.2f} s"


def left_nothing(told: Told) -> None:
    """No process, port, shared memory, file aside or descriptor is left."""
    assert not [pid for pid in told.pids if psutil.pid_exists(pid)], "processes are left"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", told.port)) != 0, "the coordinator's port still answers"
    assert segments() <= told.segments, f"shared memory is left: {segments() - told.segments}"
    before, after = told.descriptors
    assert after <= before, f"the coordinator had {before} descriptors before the faults, {after} after them"
    aside = [path for place in (told.folder, told.state) for path in place.rglob("*") if _ASIDE.fullmatch(path.name)]
    assert not aside, f"files that were being written are left: {aside}"


def replayed(folder: Path, state: Path) -> Replayed:
    """Every round again, in process, from what the run has written down: the same receipts, the same weights."""
    result = replay(folder, state)
    assert not result.differences, result.differences
    assert result.rounds, "nothing was replayed"
    return result
