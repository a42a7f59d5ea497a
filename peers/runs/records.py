"""Records of rounds in metrics.jsonl: diagnostics of learning and of collapse, computed and written in groups."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peers.exchange.base import receipt_of
from peers.method.peer import Step
from peers.probes.collapse import deviation, disagreement, effective_rank
from peers.runs.metrics import Recorder
from peers.transport.values import Consensus

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Records that are kept, at most, before they are written."""
AT_LAST = 0.5
"""Seconds after which what is kept is written with the next record."""


@dataclass(frozen=True)
class Record:
    """What is recorded of a round; the only tensors that it keeps alive are those of the steps.

    Attributes:
        round: its number.
        count: of contributors.
        receipt: digest, hexadecimal.
        steps: of each hosted peer.
        values: more of each, under the names that they get in the file.
        live: newest live k-NN of each, percent, in rounds that the log reports, too; otherwise None.
    """

    round: int
    count: int
    receipt: str
    steps: Mapping[int, Step]
    values: Mapping[int, Mapping[str, Any]]
    live: Mapping[int, float] | None

    @classmethod
    def of(
        cls,
        consensus: Consensus[Tensor],
        steps: Mapping[int, Step],
        values: Mapping[int, Mapping[str, Any]],
        live: Mapping[int, float] | None,
    ) -> Record:
        """Of the round that came to `consensus`; makes its receipt."""
        return cls(consensus.round, consensus.count, receipt_of(consensus).digest, steps, values, live)


class Records:
    """Computes and writes what is kept, in the order of the rounds.

    Where networks are small a record takes about as long as a round, much of it because its code and data have left the
    caches: several in a row take less. On CPU that is done between two rounds. A thread beside them would have no core
    of its own, and would take the interpreter from the loop at each operation. On a GPU, where a record waits for the
    device, a thread writes each one beside the rounds that follow.

    Args:
        recorder: where they go.
        rounds: length of the run.
        device: where outputs lie.
    """

    def __init__(self, recorder: Recorder, rounds: int, device: torch.device) -> None:
        self._recorder, self._rounds = recorder, rounds
        self._kept: list[Record] = []
        self._since = 0.0
        self._thread = ThreadPoolExecutor(1, "records") if device.type == "cuda" else None
        self._writing: Future[None] | None = None

    def keep(
        self,
        consensus: Consensus[Tensor],
        steps: Mapping[int, Step],
        values: Mapping[int, Mapping[str, Any]],
        live: Mapping[int, float] | None,
    ) -> None:
        """Write a record, now or later; the errors of one may come with another. Arguments as of `Record`."""
        if self._thread is not None:  # the receipt, too, is made there: it copies the total to the host
            self._wait()
            self._writing = self._thread.submit(lambda: self._write([Record.of(consensus, steps, values, live)]))
            return
        if not self._kept:
            self._since = time.monotonic()
        self._kept.append(Record.of(consensus, steps, values, live))
        if live is not None or len(self._kept) >= AT_ONCE or time.monotonic() - self._since >= AT_LAST:
            self.flush()

    def flush(self) -> None:
        """Return once all records are written."""
        self._wait()
        kept, self._kept = self._kept, []
        self._write(kept)

    def close(self) -> None:
        """Write what is kept, and end."""
        try:
            self.flush()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, records: Sequence[Record]) -> None:
        # Before any is written: TensorBoard's thread wakes then, and would share the interpreter.
        computed = [{peer: _diagnostics(step) for peer, step in record.steps.items()} for record in records]
        for record, diagnostics in zip(records, computed, strict=True):
            for peer, values in diagnostics.items():
                line = {**values, "count": record.count, "receipt": record.receipt, **record.values[peer]}
                self._recorder.record(peer, record.round, line)
            if record.live is not None:
                parts = "; ".join(_line(peer, values, record.live.get(peer)) for peer, values in diagnostics.items())
                logger.info("round %d of %d: %s", record.round + 1, self._rounds, parts)


def _diagnostics(step: Step) -> Mapping[str, Any]:
    """Diagnostics of learning and of collapse, of one step."""
    return {
        "loss": step.loss,
        "gradient": step.gradient,
        "effective_rank": effective_rank(step.outputs),
        "deviation": deviation(step.outputs),
        "disagreement": disagreement(step.outputs, step.target) if step.target is not None else float("nan"),
        "skipped": step.skipped,
    }


def _line(peer: int, diagnostics: Mapping[str, Any], live: float | None) -> str:
    """One peer's part of the round's line in the log."""
    what = f"skipped ({diagnostics['skipped']})" if diagnostics["skipped"] else f"loss {diagnostics['loss']:.4f}"
    score = "" if live is None else f", k-NN {live:.1f}"
    return f"peer {peer} {what}, rank {diagnostics['effective_rank']:.1f}{score}"
