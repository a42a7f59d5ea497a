"""The step benchmark on one GPU: `uv run python -m tests.benchmarks.step --gpu [--batches 256] [--compile off]`.

ResNet-18 for small images, bf16, channels_last, with and without torch.compile: several peers in one worker, and as
many workers on the same GPU through a coordinator with shared memory. The yardstick is one compiled peer that trains
without an exchange. The exchange's share of a round comes from passes of their own, in which CUDA is synchronized
before a publication and after the consensus.

Where there is no GPU the tables say so. `--device cpu --toy` takes the same way with networks of milliseconds; only
torch.compile is left out there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tests.benchmarks.measure import Figure, Table, note, over
from tests.benchmarks.step_cases import LOOP, Arrangement, limit, load_of
from tests.benchmarks.step_groups import Measured, OutOfMemoryError, measured

NETWORK = "resnet18"
PEERS = (1, 2, 4, 8, 16)
MOST_WORKERS = 8
"""Processes on one GPU, at most."""
MOST_IN_LOOP = 8
"""Peers of the researcher's loop, at most: it shares the GPU's memory with the worker that it is compared with."""
TIMED = 3
"""Passes with a watch on the exchange."""
UNMEASURED = "unmeasured: no GPU"
COLUMNS = (
    *("arrangement", "rounds/s", "without exchange", "ratio", "images x peers / s", "ratio to one compiled peer"),
    *("exchange's share, %", "ratio to researcher's loop"),
)
PACKED = Arrangement("one worker", 1, "inprocess")


@dataclass(frozen=True)
class Setting:
    """What is varied.

    Attributes:
        batch: images in a round.
        compiled: torch compiles the networks.
        peers: of the group.
        workers: that host them: one, or one for each peer.
    """

    batch: int
    compiled: bool
    peers: int
    workers: int

    def text(self) -> str:
        """For people."""
        who = f"{self.peers} peers in one worker" if self.workers == 1 else f"{self.peers} workers"
        return f"{'compiled' if self.compiled else 'eager'}, {'one peer' if self.peers == 1 else who}"

    def exchange(self) -> Arrangement | None:
        """The arrangement that is measured; None for one peer, who has nobody to exchange with."""
        if self.peers == 1:
            return None
        return PACKED if self.workers == 1 else Arrangement("workers", self.workers, "shared")

    def bare(self) -> Arrangement:
        """The same processes without an exchange."""
        return limit(self.exchange() or PACKED, self.peers)

    def cases(self) -> list[Arrangement]:
        """All that runs side by side."""
        loop = self.workers == 1 and not self.compiled and 1 < self.peers <= MOST_IN_LOOP
        return [*filter(None, [self.exchange()]), self.bare(), *([LOOP] if loop else [])]


Found = Mapping[Setting, Measured | str]
"""What was measured, or in words why not."""


def settings(given: argparse.Namespace) -> list[Setting]:
    """All that the options ask for, compiled ones first: the yardstick is among them."""
    modes = sorted((mode == "on" for mode in given.compile), reverse=True)
    return [
        Setting(batch, compiled, peers, workers)
        for batch, compiled, peers in itertools.product(given.batches, modes, given.peers or PEERS)
        for workers in ([1, peers] if 1 < peers <= MOST_WORKERS else [1])
    ]


def measure(given: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """All settings; the tables, and every pass."""
    device = given.device or "cuda"
    found: dict[Setting, Measured | str] = {}
    for setting in settings(given) if device == "cpu" or torch.cuda.is_available() else ():
        if device == "cuda" or not setting.compiled:
            found[setting] = _one(setting, device, given)
    every = [
        {"setting": asdict(setting), "measured": asdict(one) if isinstance(one, Measured) else one}
        for setting, one in found.items()
    ]
    return [table(batch, given, found) for batch in given.batches], {"every pass": every, "toy": given.toy}


def table(batch: int, given: argparse.Namespace, found: Found) -> Table:
    """Every setting of one batch size that was asked for, measured or not; one line for all where nothing was."""
    one = found.get(Setting(batch, True, 1, 1))
    yardstick = one.rates if isinstance(one, Measured) else {}
    asked = [setting for setting in settings(given) if setting.batch == batch]
    rows = [[setting.text(), *_row(setting, found.get(setting), yardstick)] for setting in asked]
    return Table(
        f"Training rounds of ResNet-18 on one GPU, batch {batch}",
        "bf16, channels_last, images of 32x32; several workers meet at a coordinator with shared memory. Median of the "
        "passes with quartiles. An image counts once for each peer; one compiled peer is the yardstick for images. "
        "Share: of a round's time, from publishing to the consensus, waiting for others included.",
        COLUMNS,
        rows if any(setting in found for setting in asked) else [["all", UNMEASURED, *[""] * 6]],
    )


def _one(setting: Setting, device: str, given: argparse.Namespace) -> Measured | str:
    load = load_of(NETWORK, setting.peers, toy=given.toy, device=device, batch=setting.batch, compiled=setting.compiled)
    try:
        result = measured(load, setting.cases(), given.passes, given.seconds, TIMED)
    except OutOfMemoryError as exc:
        note(str(exc))
        return "out of memory"
    note(f"batch {setting.batch}, {setting.text()}: {json.dumps(asdict(result))}")  # kept, whatever comes after it
    return result


def _row(setting: Setting, result: Measured | str | None, yardstick: Mapping[str, Sequence[float]]) -> list[str]:
    """The columns after the first."""
    if not isinstance(result, Measured):
        return [result or UNMEASURED, *[""] * 6]
    case, bare = setting.exchange(), result.rates[setting.bare().name]
    rate = bare if case is None else result.rates[case.name]
    loop = result.rates.get(LOOP.name)
    unit = [statistics.median(values) for values in yardstick.values()]
    return [
        Figure.of(rate).text(1) if case else "",
        Figure.of(bare).text(1),
        over(rate, bare).text() if case else "",
        Figure.of(rate).text(0, setting.batch * setting.peers),
        Figure.of(rate).text(2, setting.peers / unit[0]) if unit else "",
        Figure.of(result.shares[case.name]).text(1, 100) if case else "",
        over(rate, loop).text() if loop else "",
    ]
