"""Replay of a run as one call: reads the folder, the journals and seeds, replays, compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from coordinator.replay.history import RoundSequence, fixed, read_history
from coordinator.replay.lives import Lives, lineage
from coordinator.replay.play import CPU, Altered, RunReplayer
from coordinator.replay.result import Replayed
from coordinator.service.journal import FILE
from peers.common.errors import RunFolderError
from peers.config import loading as configfile
from peers.config.schema import Config
from peers.runs.journal import Life, read
from peers.runs.metrics import records
from peers.runs.run_folder import RunFolder
from peers.worker.preflight import RunContext, check


def as_it_was(round_: int, peer: int, outputs: Tensor) -> Tensor:
    """What an honest peer publishes: its outputs."""
    return outputs


def replay(
    folder: Path,
    state: Path | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
    altered: Altered = as_it_was,
) -> Replayed:
    """Run a run again in this process, and compare it with what it left behind.

    Args:
        folder: of the run; nothing in it is changed.
        state: state folder of its coordinator, of a tree of coordinators the root's; by default where the
            configuration says it is.
        progress: called with (rounds done, rounds in all).
        altered: what peers published instead of their outputs, where they are known to have had such a fault.

    Returns:
        what was compared, and all that differs.

    Raises:
        RunFolderError: it cannot be replayed: a journal is missing, damaged or incomplete, or a GPU computed it.
        PeersError: the configuration, or the images.
    """
    where = RunFolder(Path(folder))
    if not where.config.is_file():
        raise RunFolderError(f"{folder} is not a run: it has no config.yaml")
    config = configfile.load(where.config)
    journals = _journals(where)
    doubts = _doubts(journals)
    grounds = replace(check(config, CPU), folder=where)
    receipts: dict[tuple[int, int], str] = {}
    if config.exchange.elastic:
        sequences = read_history((state or where.coordinator_state(config)) / FILE)
    else:
        receipts = {
            (line["round"], line["peer"]): line["receipt"] for line in records(where.metrics) if "receipt" in line
        }
        journals = {peer: lineage(lives) for peer, lives in journals.items()}
        sequences = fixed(config.group.peers or len(journals), _length(config, grounds, journals, receipts))
    lives = Lives(journals, sequences)
    threads = torch.get_num_threads()
    try:
        return _replay(config, grounds, lives, sequences, receipts, progress, altered, doubts)
    finally:
        torch.set_num_threads(threads)


def _replay(
    config: Config,
    grounds: RunContext,
    lives: Lives,
    sequences: list[RoundSequence],
    receipts: Mapping[tuple[int, int], str],
    progress: Callable[[int, int], None],
    altered: Altered,
    doubts: tuple[str, ...],
) -> Replayed:
    player = RunReplayer(config, grounds, lives, receipts, altered)
    saved = {peer: grounds.checkpoints(config, peer).rounds() for peer in lives.parts}
    for peer, rounds in saved.items():
        for round_ in rounds:
            player.check(peer, round_)
    played = [(place, sequence) for place, sequence in enumerate(sequences) if lives.of(place)]
    count, done = sum(len(sequence.rounds) for _, sequence in played), 0

    def another() -> None:
        nonlocal done
        done += 1
        progress(done, count)

    try:
        for place, sequence in played:
            player.play(place, sequence, another)
        player.finish()
    except RunFolderError:
        if not player.differences:
            raise  # otherwise it follows from what differs already
    voided = sum(round_.void for _, sequence in played for round_ in sequence.rounds)
    return Replayed(
        rounds=count - voided,
        voided=voided,
        lives=sum(part.before is None for parts in lives.parts.values() for part in parts),
        receipts=player.compared,
        checkpoints=sum(map(len, saved.values())),
        peers=tuple(peer for peer, rounds in saved.items() if rounds),
        differences=tuple(player.differences),
        doubts=doubts,
    )


def _journals(folder: RunFolder) -> dict[int, list[Life]]:
    """{peer: lives} of all that have a journal.

    Raises:
        RunFolderError: nobody has one, or one that has checkpoints does not.
    """
    paths = sorted(folder.journal(0).parent.glob("peer-*.jsonl"))
    journals = {int(path.stem.removeprefix("peer-")): path for path in paths}
    saved = {int(path.parent.name.removeprefix("peer-")) for path in folder.path.glob("checkpoints/peer-*/latest")}
    missing = sorted(saved - journals.keys())
    if not journals or missing:
        whose = f"the peers {missing}" if missing else "any peer"
        raise RunFolderError(
            f"{folder.journal(0).parent} has no journal of {whose}: the run was made by a version without journals, or "
            f"its workers keep their files on other hosts; copy them here"
        )
    return {peer: read(path) for peer, path in journals.items()}


def _doubts(journals: Mapping[int, list[Life]]) -> tuple[str, ...]:
    """Why the same arithmetic may come to other bits here.

    Raises:
        RunFolderError: a GPU computed some of it.
    """
    terms = {life.terms for lives in journals.values() for life in lives}
    gpus = sorted({each.device for each in terms if each.device != "cpu"})
    if gpus:
        raise RunFolderError(
            f"peers computed on {', '.join(gpus)}: the kernels of a GPU add in no fixed order, so the same bits cannot "
            f"be expected; only runs on CPUs are replayed"
        )
    here = {"PyTorch": torch.__version__, "CPU kernels": torch.backends.cpu.get_cpu_capability()}
    there = {"PyTorch": {each.version for each in terms}, "CPU kernels": {each.capability for each in terms}}
    return tuple(
        f"{what}: {', '.join(sorted(there[what] - {now}))} in the run, {now} here: bits may differ"
        for what, now in here.items()
        if there[what] - {now}
    )


def _length(
    config: Config,
    grounds: RunContext,
    journals: Mapping[int, list[Life]],
    receipts: Mapping[tuple[int, int], str],
) -> int:
    """How far a fixed group came, by its checkpoints and records."""
    saved = [round_ for peer in journals for round_ in grounds.checkpoints(config, peer).rounds()]
    return max([0, *saved, *(round_ + 1 for round_, _ in receipts)])
