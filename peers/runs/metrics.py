"""Metrics of a run while it goes on: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peers.common.files import write_atomically
from peers.runs.run_folder import RunFolder, append_line

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the records of the peers of one worker.

    Args:
        folder: of the run.
        peers: ids of the hosted peers.
        first_round: where the run begins or resumes.
        tensorboard: write events too; without the package a warning takes their place.
    """

    def __init__(self, folder: RunFolder, peers: list[int], first_round: int, tensorboard: bool) -> None:
        self._folder = folder
        self._writers: dict[int, Any] = {}
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional
            except ImportError:
                if 0 in peers:  # one worker says it for the group
                    logger.warning('no TensorBoard events: pip install "peer-consensus[tensorboard]"')
                return
            for peer in peers:
                self._writers[peer] = SummaryWriter(
                    str(folder.tensorboard / f"peer-{peer:03d}"), purge_step=first_round
                )

    def record(self, peer: int, round_: int, values: Mapping[str, float | int | str | None]) -> None:
        """One record of one peer; values that are not finite are left out."""
        kept = {key: value for key, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        append_line(self._folder.metrics, {"round": round_, "peer": peer, **kept})
        if peer in self._writers:
            from tensorboard.compat.proto.summary_pb2 import Summary

            # One event for all values: `add_scalar` writes one for each, which takes as many times as long.
            scalars = [Summary.Value(tag=key, simple_value=value) for key, value in kept.items() if not _is_text(value)]
            self._writers[peer].file_writer.add_summary(Summary(value=scalars), round_)

    def close(self) -> None:
        """Flush and release the files."""
        for writer in self._writers.values():
            writer.close()


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl, none where there is no file; a line cut off by a crash is left out."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the half line of a process that was killed while it wrote


def forget_after(folder: RunFolder, first_round: int) -> None:
    """Drop records of rounds that a resumed run is about to do again; a line cut off by a crash goes with them."""
    if not folder.metrics.is_file():
        return
    kept = []
    for line in folder.metrics.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["round"] < first_round:
                kept.append(line)
        except ValueError:
            continue  # the half line of a process that was killed while it wrote
    write_atomically(folder.metrics, b"".join(kept))
