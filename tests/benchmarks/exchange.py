"""How long a round takes: `uv run python -m tests.benchmarks.exchange [--peers 2 4] [--shapes 256x512] [--cases ...]`.

A round is what a peer sees of it, from publishing [B, D] float32 to the sum of all peers', with a process for each
peer. For each number of peers and each payload cases stand ready together, and passes of some rounds each take turns
in an order drawn anew: a shared machine is fast and slow by turns.

Gloo's all_reduce is the yardstick of every set of cases. Bare TCP and bare shared memory carry the payload and do
nothing else: what works must take longer. Every sum is checked.

The default takes about 25 minutes on two cores that have nothing else to do; 16 peers at 1024x2048 take about 12 GiB.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.benchmarks import exchange_alternatives, exchange_cases, exchange_floors, exchange_ray
from tests.benchmarks.exchange_groups import Group, Measured, prepare
from tests.benchmarks.exchange_rounds import Setting
from tests.benchmarks.exchange_tables import YARDSTICK, Cell, tables
from tests.benchmarks.measure import interleaved, note, save

Open = Callable[[Setting], AbstractContextManager[Group]]

SETS: Sequence[Mapping[str, Open]] = (
    {
        "collective": exchange_cases.collective,
        "stream": exchange_cases.stream,
        "shared memory": exchange_cases.shared,
        "in process": exchange_cases.inprocess,
        "bare TCP": exchange_floors.tcp,
        "bare shared memory": exchange_floors.shared,
    },
    {
        "stream bf16": partial(exchange_cases.stream, wire="bf16"),
        "stream TLS": partial(exchange_cases.stream, secure=True),
    },
    {"unary gRPC": exchange_alternatives.unary, "Ray": exchange_ray.ray},
)
"""Cases that stand ready together; all at once would not fit into memory."""
CASES = [name for some in SETS for name in some]
PRELOADED = ("torch", "torch.distributed", *(f"tests.benchmarks.exchange_{it}" for it in ("cases", "alternatives")))
LEAST = 5
"""Rounds in a pass."""
LARGE, FEW = 4 * 2**20, 5
"""Bytes of one peer's outputs from which on few passes must do: they take long, and vary less."""


def measure(setting: Setting, cases: Mapping[str, Open], passes: int, seconds: float) -> dict[str, list[Measured]]:
    """All passes of all cases of a set, for one number of peers and one payload."""
    with ExitStack() as stack:
        groups = {name: stack.enter_context(open_(setting)) for name, open_ in cases.items()}
        rounds = {name: fitting(started, seconds) for name, started in groups.items()}
        found: dict[str, list[Measured]] = {name: [] for name in groups}

        def one(name: str) -> float:
            found[name].append(groups[name].run(rounds[name]))
            return found[name][-1].seconds

        passes = min(passes, FEW) if setting.bytes >= LARGE else passes
        interleaved({name: partial(one, name) for name in groups}, passes, warm=False)  # `fitting` has warmed them
        return found


def fitting(group: Group, seconds: float) -> int:
    """Rounds that make a pass of so many seconds, found in passes that count for nothing."""
    rounds = LEAST
    for share in (0.2, 0.5, 1.0):
        fit = int(share * seconds / group.run(rounds).period)
        if fit <= LEAST:
            break
        rounds = fit
    return rounds


def sets(given: argparse.Namespace) -> list[dict[str, Open]]:
    """The cases that were asked for, each set with the yardstick."""
    chosen = [{name: open_ for name, open_ in some.items() if name in given.cases} for some in SETS]
    if given.hivemind:
        chosen.append({"hivemind": partial(exchange_alternatives.hivemind, python=given.hivemind)})
    return [{YARDSTICK: exchange_cases.gloo, **some} for some in chosen if some]


def cells(given: argparse.Namespace) -> Sequence[Cell]:
    """All that was asked for, one after the other."""
    found = []
    for shape in given.shapes:
        for peers in given.peers:
            setting = Setting(peers, shape)
            note(f"{setting.payload}, {peers} peers")
            found.append(Cell(setting, [measure(setting, some, given.passes, given.seconds) for some in sets(given)]))
    return found


def main() -> None:
    """Measure, print the tables, write all passes down."""
    parser = argparse.ArgumentParser(description="Time of an exchange round, against gloo and against the transport.")
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--shapes", type=shape, nargs="+", default=[(256, 128), (256, 512), (1024, 2048)])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a pass, about")
    parser.add_argument("--hivemind", metavar="PYTHON", help="of an environment with hivemind; measures it, too")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # as an exception, so that all is reaped
    prepare(*PRELOADED)
    found = cells(given)
    details = [
        {
            "peers": cell.setting.peers,
            "shape": cell.setting.shape,
            "sets": [{name: [asdict(each) for each in passes] for name, passes in some.items()} for some in cell.sets],
        }
        for cell in found
    ]
    save("exchange", tables(found), {"cells": details}, given.out)


def shape(text: str) -> tuple[int, int]:
    """Of BxD."""
    rows, columns = text.split("x")
    return int(rows), int(columns)


if __name__ == "__main__":
    main()
