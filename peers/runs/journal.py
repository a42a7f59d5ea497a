"""Journal of a peer: its starts, skipped rounds and end, from which a run can be replayed.

It holds what the weights depend on and what nothing else records: when each life of the peer began, and which rounds it
missed.

    RUN/journal/peer-003.jsonl
    {"round": 80, "incarnation": 0, "from": 50, ...}         a life: enters at round 80 with its checkpoint of round 50
    {"round": 91, "skipped": "late", "next": 93}             a forward pass without a step; the next one is in round 93
    {"round": 120, "ended": "complete"}                      it went in order, after 120 rounds

A life is one process that hosts the peer. `from` 0 is the initialization as that incarnation. One that was expelled
and joins again lives on with the weights that it has in memory. Nothing is written in a round that led to a step: that
it did follows from the rounds that closed. Nor is it said when a process was killed: what it did after its last
checkpoint is lost, apart from what it published meanwhile, which replay computes as if it had lived.

Each line is on disk before a checkpoint, or a publication, that presupposes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from peers.common.errors import RunFolderError
from peers.common.json_lines import append, cut_torn_line, damaged, objects
from peers.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Terms:
    """Circumstances of a worker that the last bits of its peers' weights depend on.

    Attributes:
        hosted: ids of its peers, ascending: where the rule lives on sums, their outputs were added before all others.
        exchange: "coordinator", "collective" or "inprocess".
        threads: compute threads of a peer.
        device: "cpu", or the name of the GPU.
        version: of PyTorch.
        capability: instructions that PyTorch's CPU kernels were chosen for, such as AVX2.
    """

    hosted: tuple[int, ...]
    exchange: str
    threads: int
    device: str = "cpu"
    version: str = field(default_factory=lambda: torch.__version__)
    capability: str = field(default_factory=lambda: torch.backends.cpu.get_cpu_capability())

    @classmethod
    def of(cls, hosted: Sequence[int], exchange: str, device: torch.device) -> Terms:
        """As they are in this process."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return cls(tuple(hosted), exchange, torch.get_num_threads(), name)


@dataclass(frozen=True)
class Skip:
    """A round with a forward pass and no step, because it closed without the peer or was void.

    Attributes:
        round: its number.
        reason: as `peers.transport.values.Missed` says it.
        next: the round of the next forward pass.
    """

    round: int
    reason: str
    next: int


@dataclass
class Life:
    """One process that hosted a peer.

    Attributes:
        round: where it entered.
        incarnation: of the network's initialization.
        source: round of the checkpoint that it began with; 0: initialization.
        admitted: incarnation that the group gave the peer when it joined.
        epoch: membership epoch of its first round.
        terms: of its worker.
        skips: in order.
        ended: rounds done when it went in order; None where it was killed, or still runs.
    """

    round: int
    incarnation: int
    source: int
    admitted: int
    epoch: int
    terms: Terms
    skips: list[Skip] = field(default_factory=list)
    ended: int | None = None


class PeerJournal:
    """Journals of the peers of one worker, which holds their locks.

    Args:
        folder: of the run.
        peers: ids.

    Raises:
        RunFolderError: it cannot be written, of all methods.
    """

    def __init__(self, folder: RunFolder, peers: Sequence[int]) -> None:
        self._paths = {peer: folder.journal(peer) for peer in peers}
        for path in self._paths.values():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                cut_torn_line(path)
            except OSError as exc:
                raise _unwritable(path, exc) from exc

    def begin(self, peer: int, life: Life) -> None:
        """A peer's life begins; comes before its first publication."""
        terms = asdict(life.terms)
        terms["torch"] = terms.pop("version")
        start = {"round": life.round, "incarnation": life.incarnation, "from": life.source}
        self._write(peer, {**start, "admitted": life.admitted, "epoch": life.epoch, **terms})

    def skip(self, skip: Skip) -> None:
        """All peers made a forward pass that leads to no step; comes before their next one."""
        for peer in self._paths:
            self._write(peer, {"round": skip.round, "skipped": skip.reason, "next": skip.next})

    def end(self, done: int, why: str) -> None:
        """All peers have done `done` rounds, and go; comes before their last checkpoint."""
        for peer in self._paths:
            self._write(peer, {"round": done, "ended": why})

    def _write(self, peer: int, record: Mapping[str, Any]) -> None:
        path = self._paths[peer]
        try:
            append(path, (json.dumps(record) + "\n").encode())
        except OSError as exc:
            raise _unwritable(path, exc) from exc


def read(path: Path) -> list[Life]:
    """The lives of a peer, in order.

    Raises:
        RunFolderError: as `objects`; a line says what it should not, or belongs to no life.
    """
    lives: list[Life] = []
    for number, line in enumerate(objects(path), start=1):
        try:
            if "from" in line:
                lives.append(_life(line))
            elif "skipped" in line:
                lives[-1].skips.append(Skip(line["round"], line["skipped"], line["next"]))
            else:
                _ = line["ended"]
                lives[-1].ended = line["round"]
        except (KeyError, TypeError, IndexError) as exc:
            raise damaged(path, number, f"{type(exc).__name__}: {exc}") from exc
    return lives


def _life(line: Mapping[str, Any]) -> Life:
    terms = Terms(
        tuple(line["hosted"]), line["exchange"], line["threads"], line["device"], line["torch"], line["capability"]
    )
    return Life(line["round"], line["incarnation"], line["from"], line["admitted"], line["epoch"], terms)


def _unwritable(path: Path, exc: OSError) -> RunFolderError:
    return RunFolderError(
        f"the journal {path} cannot be written: {exc.strerror or exc}; free the disk, or choose another folder with "
        f"--set run.out=DIR"
    )
