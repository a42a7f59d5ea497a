"""How far one coordinator goes, and a tree of them: `uv run python -m tests.benchmarks.scale [--publishers 2 4 8]`.

Light publishers (clients without torch, [64, 128] float32, a connection each, 16 in a process) go through one
coordinator, or through a root and relays below it. In each pass every arrangement runs once, in an order drawn anew,
with processes of its own; a pass gives the median time of its rounds, as peer 0 sees them, and what the coordinators
used of the processor and of memory. A line is fitted to the medians, and its constants say what larger groups take.

The default takes about six minutes on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from protos.consensus_pb2 import FLOAT32
from protos.tensors import size_of
from tests.benchmarks.light_publishers import EACH, WARM, Watched, publishers
from tests.benchmarks.measure import Figure, Table, interleaved, over, save
from tests.benchmarks.scale_model import BANDWIDTH, ROUND_TRIP, Line, Tree, best, fit, networked, pays_from, two_levels
from tests.benchmarks.service_load import service, services

TIMES = {"heartbeat": 20.0, "round_deadline": 60.0, "join_window": 120.0}
MOST = 20
"""Times as many rounds that a small group runs at most: its rounds are short."""
LARGE = (10_000, 1_000_000)


@dataclass(frozen=True)
class Arrangement:
    """Publishers, and what is between them.

    Attributes:
        peers: of the group.
        relays: below the root; 0 is one coordinator for all.
    """

    peers: int
    relays: int = 0

    @property
    def name(self) -> str:
        """64, or 8x8: relays times publishers of each."""
        return f"{self.relays}x{self.peers // self.relays}" if self.relays else f"{self.peers}"

    def on_one_machine(self, line: Line) -> float:
        """Seconds of a round, if all coordinators work in turn."""
        if not self.relays:
            return line.at(self.peers)
        return line.at(self.relays) + self.relays * line.at(self.peers // self.relays)

    @classmethod
    def of(cls, text: str) -> Arrangement:
        """As it is called; for the command line."""
        relays, _, each = text.partition("x")
        return cls(int(relays) * int(each), int(relays)) if each else cls(int(relays))


@dataclass(frozen=True)
class Pass:
    """One run of an arrangement.

    Attributes:
        seconds: median of its rounds.
        rounds: how many were measured.
        root_cpu: processor seconds of the root in a round.
        relay_cpu: of a relay in a round, mean over relays; None without any.
        root_mib: resident memory of the root.
        relay_mib: of a relay, mean over relays; None without any.
    """

    seconds: float
    rounds: int
    root_cpu: float
    relay_cpu: float | None
    root_mib: float
    relay_mib: float | None


def run(arrangement: Arrangement, shape: tuple[int, int], rounds: int) -> Pass:
    """Start everything, run so many rounds, end everything."""
    values: dict[str, Any] = {"rounds": WARM + rounds, "shape": shape, "group": arrangement.peers, "linger": True}
    values |= {**TIMES, "max_peers": max(256, arrangement.peers), "shared_memory": False}
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "watched.json"
        root, process, _ = stack.enter_context(service(**values))
        share = arrangement.peers // max(1, arrangement.relays)
        places = [(first, first + share - 1) for first in range(0, arrangement.peers, share)][: arrangement.relays]
        relays = stack.enter_context(services([{**values, "peer_ids": each} for each in places], root))
        watch = [process.pid, *(relay.pid for _, relay, _ in relays)]
        addresses = [address for address, _, _ in relays] or [root]
        started = publishers(addresses, arrangement.peers, shape, out, watch=watch, shared=False)
        codes = [publisher.wait() for publisher in stack.enter_context(started)]
        if any(codes):
            raise RuntimeError(f"{arrangement.name}: publishers ended with {codes}")
        watched = Watched(**json.loads(out.read_text()))
    cpu, mib = [each / len(watched.seconds) for each in watched.cpu], watched.mib
    means = [statistics.fmean(each[1:]) if relays else None for each in (cpu, mib)]
    seconds = statistics.median(watched.seconds)
    return Pass(seconds, len(watched.seconds), cpu[0], means[0], mib[0], means[1])


def passes_of(
    arrangements: Sequence[Arrangement], shape: tuple[int, int], rounds: int, passes: int
) -> dict[Arrangement, list[Pass]]:
    """All passes of all arrangements; smaller ones run more rounds."""
    largest = max(each.peers for each in arrangements)
    found: dict[Arrangement, list[Pass]] = {each: [] for each in arrangements}

    def one(each: Arrangement) -> float:
        found[each].append(run(each, shape, rounds * min(MOST, max(1, largest // each.peers))))
        return found[each][-1].seconds

    interleaved({each.name: partial(one, each) for each in arrangements}, passes, warm=False)  # rounds are warmed
    return found


def medians(found: Mapping[Arrangement, Sequence[Pass]], what: str) -> dict[int, float]:
    """{peers: median over the passes} of what was measured, of one coordinator for all."""
    return {
        each.peers: statistics.median(getattr(one, what) for one in passes)
        for each, passes in found.items()
        if not each.relays
    }


def growth(found: Mapping[Arrangement, Sequence[Pass]], wall: Line, cpu: Line) -> Table:
    """One coordinator."""
    rows = []
    for each, passes in found.items():
        if not each.relays:
            seconds = Figure.of([one.seconds for one in passes])
            publication = Figure.of([one.root_cpu / each.peers for one in passes])
            mib = Figure.of([one.root_mib for one in passes])
            rows.append([each.name, seconds.text(2, 1e3), publication.text(3, 1e3), mib.text(0)])
    note = (
        f"Medians over passes with quartiles. Publishers and coordinator share the machine's cores, over loopback, "
        f"without shared memory. Least squares of relative errors over the medians: a round takes a + b N, "
        f"{wall.text()}; of it the coordinator's processor {cpu.text()}."
    )
    columns = ["publishers", "ms per round", "coordinator CPU, ms per publication", "coordinator MiB"]
    return Table("One coordinator and N light publishers", note, columns, rows)


def trees(found: Mapping[Arrangement, Sequence[Pass]], wall: Line) -> Table:
    """Trees against one coordinator for as many publishers, pass by pass."""
    rows = []
    for each, passes in found.items():
        if not any(other.relays and other.peers == each.peers for other in found):
            continue
        seconds, flat = ([one.seconds for one in some] for some in (passes, found[Arrangement(each.peers)]))
        relays = [one.relay_cpu for one in passes if one.relay_cpu is not None]
        row = [str(each.peers), each.name if each.relays else "one coordinator", Figure.of(seconds).text(2, 1e3)]
        row += [over(seconds, flat).text(2), f"{1e3 * each.on_one_machine(wall):.2f}"]
        row += [Figure.of([one.root_cpu for one in passes]).text(2, 1e3)]
        rows.append([*row, Figure.of(relays).text(2, 1e3) if relays else "-"])
    rows.sort(key=lambda row: (int(row[0]), "x" in row[1]))
    note = (
        "Relays x publishers of each, in the same passes as one coordinator for all; ratios pass by pass, medians with "
        "quartiles. Here relays share the cores with everything else, so that a tree only adds work, about as much as "
        "the line says: a + b n for each coordinator with its n members, in turn. What a tree takes off is the work of "
        "any one coordinator in a round, its CPU, which bounds a round where each has a host of its own."
    )
    columns = ["publishers", "arrangement", "ms per round", "ratio", "line, ms", "root CPU, ms", "relay CPU, ms"]
    return Table("A tree of coordinators", note, columns, rows)


def extrapolation(wall: Line, cpu: Line, shape: tuple[int, int]) -> Table:
    """What the lines say of large groups."""
    line, rows = networked(cpu, size_of(FLOAT32, *shape)), []
    for peers in LARGE:
        for title, tree in (("", Tree(1, peers)), ("two levels", two_levels(peers)), ("best", best(peers, line))):
            told = f"{title}: {tree.levels} levels of {tree.fan_out:,}" if title else "one coordinator"
            times = [*(tree.side_by_side(each) for each in (cpu, line, wall)), tree.in_turn(wall)]
            rows.append([f"{peers:,}", told, *map(_seconds, times)])
    note = (
        f"From the fitted lines alone: nothing of this size was run. Two levels are faster than one coordinator from "
        f"N = {pays_from(line)} on, with a host for each coordinator and a network between them; on one machine they "
        f"never are. A tree of L levels takes L (a + b f), each "
        f"coordinator with f members and, but for the last column, a host of its own. Processor: a and b of the "
        f"coordinator's processor time; peers cost nothing, and the network neither. With a network: besides, "
        f"{1e3 * ROUND_TRIP} ms for each level, and every member's tensor in and out at {BANDWIDTH / 1e9:.0f} Gbit/s; "
        f"this chooses the best tree. As measured: a and b of the time of a round here, over loopback, where "
        f"publishers share the cores with the coordinator. On this machine: all coordinators share them and work in "
        f"turn. "
        f"Left out: today a group has at most 4,096 peer ids, and a receipt names every contributor, so that on every "
        f"level it grows with the whole group, by up to 6 bytes for each peer."
    )
    columns = ["peers", "arrangement", "processor, s", "with a network, s", "as measured, s", "on this machine, s"]
    return Table("Larger groups, extrapolated", note, columns, rows)


def _seconds(value: float) -> str:
    return f"{value:,.3f}" if value < 10 else f"{value:,.0f}"


def main() -> None:
    """Measure, print the tables, write all passes down."""
    parser = argparse.ArgumentParser(description="Time of a round against the size of the group, flat and as a tree.")
    parser.add_argument("--publishers", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--trees", type=Arrangement.of, nargs="*", default=[Arrangement(64, 8), Arrangement(256, 16)])
    parser.add_argument("--shape", type=int, nargs=2, default=(64, 128))
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40, help="of the largest group in a pass; smaller ones run more")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = sorted({*given.publishers, *(tree.peers for tree in given.trees)})
    shape = (given.shape[0], given.shape[1])
    found = passes_of([*map(Arrangement, sizes), *given.trees], shape, given.rounds, given.passes)
    wall, cpu = fit(medians(found, "seconds")), fit(medians(found, "root_cpu"))
    tables = [growth(found, wall, cpu), *([trees(found, wall)] if given.trees else []), extrapolation(wall, cpu, shape)]
    details = {
        "shape": shape,
        "publishers in a process": EACH,
        "fit": {"round": asdict(wall), "coordinator CPU": asdict(cpu)},
        "passes": {each.name: [asdict(one) for one in passes] for each, passes in found.items()},
    }
    save("scale", tables, details, given.out)


if __name__ == "__main__":
    main()
