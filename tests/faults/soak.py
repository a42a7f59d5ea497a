"""A randomized soak: `uv run python -m tests.faults.soak --minutes 15 --seed 0 [--peers 8] [--json FILE]`.

A group on digits, through a coordinator, half of it over shared memory and half over connections; every few seconds a
fault of a plan that the seed draws. What must be true is checked while it runs: rounds only grow, the coordinator's
memory is bounded, each fault has its effect and the group is whole after it. Then the run ends for all, is judged like
any other, and done again from its journals (`coordinator.replay`). Stretches with faults alternate with stretches
without: the ratio of their rounds a second is what faults cost. The exit code is 1 where anything was violated. The
same seed draws the same plan.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from coordinator.replay import Replayed
from tests.benchmarks.measure import note
from tests.faults.draw import Terms, draw
from tests.faults.faulty_exchange import LASTING, Fault
from tests.faults.forks import Server
from tests.faults.group import Group
from tests.faults.harness import Told, segments
from tests.faults.judge import bounded, left_nothing, receipts, replayed, stalls
from tests.faults.kinds import Course, course
from tests.faults.pace import pace
from tests.faults.plan import NOBODY

HEARTBEAT, DEADLINE = 2.0, 4.0
LOOK = 0.05
GAP = 400
"""Rounds between two faults, on average: some seconds."""
PATIENCE = 60.0
STRETCH = 30.0
"""Seconds with faults, then a quarter of it without."""
AHEAD = 100
"""Rounds from now to a fault that lasts for some: by then its worker has read of it."""
MIB = 300.0
"""What a coordinator may take; it takes about 100, and must not grow."""
SETTINGS = (
    "data.name=digits",
    "device=cpu",
    f"exchange.heartbeat={HEARTBEAT}",
    f"exchange.round_deadline={DEADLINE}",
    "exchange.join_window=120",
    "checkpoint.every=50",
    "metrics.every=1",
    "metrics.tensorboard=false",
    "probe.every=0",
    "run.rounds=100000000",
)


@dataclass
class Under:
    """A fault under way."""

    fault: Fault
    steps: Course
    true: Callable[[], object]
    began: float


@dataclass
class Found:
    """What a soak found.

    Attributes:
        fired: faults that were done and had their effect, by kind.
        violated: what was not as it must be, in words.
        calm: (rounds, seconds) without faults.
        rough: (rounds, seconds) with them.
    """

    fired: Counter[str] = field(default_factory=Counter)
    violated: list[str] = field(default_factory=list)
    calm: tuple[int, float] = (0, 0.0)
    rough: tuple[int, float] = (0, 0.0)
    mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


class Soak:
    """One group, for so long.

    Args:
        group: whose workers have not been started.
        seconds: how long.
        stretch: seconds of a stretch with faults.
    """

    def __init__(self, group: Group, seconds: float, stretch: float = STRETCH) -> None:
        self.group, self.seconds, self.stretch = group, seconds, stretch
        self.found = Found()
        self._under: list[Under] = []
        self._left = list(group.plan)
        self._base = 0
        self._newest = 0

    def run(self) -> Found:
        """Start the group, let it go through stretches, end it."""
        for peer in range(self.group.peers):
            self.group.start(peer)
        self.group.until(self.group.whole, "the group forms", PATIENCE)
        began, rough = time.monotonic(), False
        while time.monotonic() < began + self.seconds:
            self._stretch(rough, self.stretch if rough else self.stretch / 4)
            rough = not rough
        self._finish()
        return self.found

    def _stretch(self, rough: bool, seconds: float) -> None:
        """Rounds with faults, or without: those begin when the group is whole."""
        first, began = self.group.round(), time.monotonic()
        skipped = self._left[0].round if self._left else 0
        self._base = first - skipped + 1  # rounds without faults do not count for the plan
        while time.monotonic() < began + seconds:
            self._look(rough)
        while self._under:
            self._look(False)
        last, took = self._known_round(), time.monotonic() - began
        rounds, before = self.found.rough if rough else self.found.calm
        made = (rounds + last - first, before + took)
        self.found.rough, self.found.calm = (made, self.found.calm) if rough else (self.found.rough, made)
        done = sum(self.found.fired.values())
        note(f"round {last}: {done} faults done, {'with' if rough else 'without'} {(last - first) / took:.1f} rounds/s")

    def _look(self, rough: bool) -> None:
        time.sleep(LOOK)
        for under in list(self._under):
            self._go_on(under)
        round_ = self.group.round()
        if round_ >= 0 and round_ < self._newest:
            self._violated(f"round {round_} came after round {self._newest}")
        self._newest = max(self._newest, round_)
        if rough and self._left and round_ - self._base >= self._left[0].round and self._bearable(self._left[0]):
            self._begin(self._left.pop(0))
        self._measure()

    def _bearable(self, fault: Fault) -> bool:
        """Whether the group has enough left to bear it: most of it must not be in trouble already."""
        if any(under.fault.peer in (fault.peer, NOBODY) for under in self._under):
            return False
        standing = self.group.standing()
        if fault.peer == NOBODY:
            return not self._under and len(standing) == self.group.peers
        return fault.peer in standing and len(self._under) < max(1, self.group.peers // 4)

    def _begin(self, fault: Fault) -> None:
        now = Fault(
            fault.kind,
            self._newest + AHEAD * (fault.kind in LASTING),
            fault.peer,
            fault.rounds,
            fault.seconds,
            fault.scale,
        )
        steps = course(self.group, now)
        under = Under(now, steps, lambda: True, time.monotonic())
        self._under.append(under)
        self._go_on(under)

    def _go_on(self, under: Under) -> None:
        """Take a fault one step further, where what it waits for has come true."""
        what = f"{under.fault.kind} of peer {under.fault.peer} in round {under.fault.round}"
        try:
            if under.true():
                true = next(under.steps, None)
                if true is not None:
                    under.true = true
                    return
                self.found.fired[under.fault.kind] += 1
                self._under.remove(under)
            elif time.monotonic() > under.began + PATIENCE:
                raise TimeoutError(f"not over within {PATIENCE:g} s")
        except (AssertionError, TimeoutError, KeyError) as exc:
            self._violated(f"{what}: {exc!r}"[:2000])
            note(self.group.last_words())
            self._under.remove(under)

    def _measure(self) -> None:
        """The coordinator's memory and descriptors."""
        if any(under.fault.peer == NOBODY for under in self._under):
            return
        process = psutil.Process(self.group.coordinator.process.pid)
        self.found.mib.append(process.memory_info().rss / 2**20)
        if self.found.mib[-1] > MIB:
            self._violated(f"the coordinator takes {self.found.mib[-1]:.0f} MiB")
        if not self._under and self.group.whole():
            self.found.descriptors.append(process.num_fds())

    def _known_round(self) -> int:
        return max(self.group.round(), self._newest)

    def _violated(self, what: str) -> None:
        note(f"VIOLATED: {what}")
        self.found.violated.append(what)

    def _finish(self) -> None:
        """Stop the run for all, and wait until all have ended."""
        group = self.group
        group.until(group.whole, "the group is whole at the end", PATIENCE)
        group.stop("the soak is over")
        for peer, running in group.workers.items():
            code, output = running.wait(PATIENCE)
            if code != 0:
                self._violated(f"the worker of peer {peer} ended with {code}: {output[-500:]}")
        code, output = group.coordinator.wait(PATIENCE)
        if code not in (0, 3):
            self._violated(f"the coordinator ended with {code}: {output[-500:]}")
        group.forget_channel()


def judged(group: Group, soak: Soak, before: frozenset[str]) -> dict[str, Any]:
    """What is checked when the run has ended; figures for the report."""
    port = int(group.address.rpartition(":")[2])
    told = Told(group.plan, group.folder, group.state, group.faults, DEADLINE, port, before)
    told.pids = tuple(running.process.pid for running in group.everybody)
    found = soak.found
    steady = sorted(found.descriptors)
    told.descriptors = (steady[-1], found.descriptors[-1]) if steady else (0, 0)
    closed: set[int] = set()

    def all_receipts() -> None:
        closed.update(receipts(group.folder))

    replay: list[Replayed] = []
    checks: dict[str, Callable[[], object]] = {
        "receipts": all_receipts,
        "stalls": lambda: bounded(stalls(group.folder, group.faults), DEADLINE, group.away, pace().factor()),
        "left": lambda: left_nothing(told),
        "replay": lambda: replay.append(replayed(group.folder, group.state)),
    }
    began = time.monotonic()
    for name, check in checks.items():
        try:
            check()
        except AssertionError as exc:
            soak._violated(f"{name}: {exc}"[:2000])
    took = time.monotonic() - began
    (rough, rough_s), (calm, calm_s) = found.rough, found.calm
    kept = (rough / rough_s) / (calm / calm_s) if rough_s and calm else float("nan")
    return {
        "faults": dict(sorted(found.fired.items())),
        "rounds closed": len(closed),
        "rounds voided": max(closed, default=-1) + 1 - len(closed),
        "violated": found.violated,
        "rounds a second, without faults": round(calm / calm_s, 2) if calm_s else None,
        "rounds a second, with faults": round(rough / rough_s, 2) if rough_s else None,
        "throughput kept": round(kept, 3),
        "coordinator MiB, first and most": [round(found.mib[0], 1), round(max(found.mib), 1)] if found.mib else [],
        "descriptors, first and last": [found.descriptors[0], found.descriptors[-1]] if found.descriptors else [],
        "seconds to judge and replay": round(took, 1),
        "replayed": {name: getattr(replay[0], name) for name in ("rounds", "receipts", "checkpoints", "lives")}
        if replay
        else None,
    }


def soak(
    server: Server, minutes: float, seed: int, peers: int, gap: int = GAP, stretch: float = STRETCH
) -> dict[str, Any]:
    """Run one; what was found.

    Args:
        server: forks the workers.
        minutes: how long, without the replay.
        seed: of the plan, and of the run.
        peers: size of the group.
        gap: rounds between two faults, on average.
        stretch: seconds of a stretch with faults.
    """
    count = int(minutes * 60) + 10
    plan = draw(seed, count, Terms(peers, gap, HEARTBEAT))
    before = segments()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "plan.json").write_text(plan.as_json())
        streamed = frozenset(range(1, peers, 2))
        group = Group(server, place, plan, *SETTINGS, f"run.seed={seed}", peers=peers, streamed=streamed)
        with closing(group):
            run = Soak(group, minutes * 60, stretch)
            run.run()
            made = judged(group, run, before)
    return {"minutes": minutes, "seed": seed, "peers": peers, **made}


def table(made: dict[str, Any]) -> str:
    """The report for people."""
    faults = made["faults"]
    rows = [f"| {kind} | {number} |" for kind, number in faults.items()]
    lines = ["| fault | times |", "| --- | ---: |", *rows, f"| all | {sum(faults.values())} |", ""]
    lines += [f"{name}: {value}" for name, value in made.items() if name not in ("faults", "violated")]
    return "\n".join([*lines, f"invariants violated: {len(made['violated'])}", *made["violated"]])


def main() -> int:
    """Run the soak; the exit code is 1 where an invariant was violated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=int, default=8, choices=range(4, 13), metavar="4..12")
    parser.add_argument("--gap", type=int, default=GAP, help="rounds between two faults, on average")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plan", action="store_true", help="print the plan of this seed, and do nothing")
    given = parser.parse_args()
    if given.plan:
        terms = Terms(given.peers, given.gap, HEARTBEAT)
        sys.stdout.write(f"{draw(given.seed, int(given.minutes * 60) + 10, terms)}\n")
        return 0
    with closing(Server()) as server:
        made = soak(server, given.minutes, given.seed, given.peers, given.gap)
    if given.json is not None:
        given.json.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(table(made) + "\n")
    return 1 if made["violated"] else 0


if __name__ == "__main__":
    sys.exit(main())
