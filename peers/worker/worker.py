"""The worker: hosts one peer, or several, from joining the group to the summary.

Under torchrun it takes its rank and rendezvous from the environment; alone it hosts the whole group in process.
All parts of a worker are put together here. Exit codes: see `peers.common.errors`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from peers.common.errors import ConfigError, PeersError
from peers.common.memory import keep_memory
from peers.config import loading as configfile
from peers.config.schema import Config
from peers.exchange.base import Exchange, Hello
from peers.exchange.collective import CollectiveExchange
from peers.exchange.inprocess import InProcessGroup
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.runs import snapshots, summary
from peers.runs.checkpoint import Checkpoints
from peers.runs.journal import Life, PeerJournal, Terms
from peers.runs.metrics import Recorder, forget_after
from peers.runs.run_folder import Existing, PeerLock, run_name
from peers.transport.values import Ticket
from peers.worker.placement import Placement, compute_threads, device_of, hosted, with_group
from peers.worker.pool import PeerPool
from peers.worker.preflight import check, saved_rounds
from peers.worker.process import StopSignal, end_with_parent, log_to_file, set_up_logging
from peers.worker.trainer import Trainer

logger = logging.getLogger("peers.worker")

PATIENCE = 10.0
"""Seconds that the process which hosted a peer before has to be gone: it may just have been killed."""


@dataclass(frozen=True)
class HostedPeers:
    """Which peers a worker hosts.

    Attributes:
        ids: peers that it hosts, or wishes to host.
        any_id: the ids are only a number of peers; the coordinator gives the real ones.
    """

    ids: tuple[int, ...]
    any_id: bool = False


class Worker:
    """The parts of one worker, made in the order in which they can fail, cheapest first.

    Args:
        config: with `group.peers` settled.
        placement: among the other workers.
        existing: what to do with a run that is already there.
        hosting: which peers it hosts.
        stop: tells whether it was asked to stop.
    """

    def __init__(
        self, config: Config, placement: Placement, existing: Existing, hosting: HostedPeers, stop: StopSignal
    ) -> None:
        self.config, self.placement, self.existing = config, placement, existing
        self.hosting, self.stop = hosting, stop
        self.device = device_of(config, placement)
        self.context = check(config, self.device)
        self.folder = self.context.folder
        if config.exchange.elastic:
            self.folder.enter(config)
        elif placement.rank == 0:
            self.folder.prepare(config, existing)
        ids = hosting.ids
        self.saved: dict[int, tuple[int, ...]] = dict.fromkeys(ids, ())
        if existing == "resume" and not hosting.any_id:
            self.saved = saved_rounds(config, self.context, ids)
        threads = compute_threads(config.group.threads, len(ids) * placement.local_world)
        if config.exchange.elastic:
            threads = config.group.threads or 1  # others may share the host, and this worker cannot know
        self.pool = PeerPool(len(ids), self.device, threads, placement.local_world)
        self.exchange, self.kind = self._exchange()
        self.peers: list[Peer] = []
        self.spent = 0.0

    def run(self) -> None:
        """Join, train, evaluate, leave."""
        ticket = self.exchange.join(self._hello())
        ids = sorted(ticket.incarnations)
        self.folder.enter(self.config)  # the lead's may be on the disk of another host
        logger.info("process %d hosts peers %s of %s on %s", os.getpid(), ids, list(ticket.members), self.device)
        locks = [PeerLock(self.folder, i, PATIENCE if self.existing == "resume" else 0.0) for i in ids]
        log_to_file(self.folder.logs / f"worker-{ids[0] if self.exchange.elastic else self.placement.rank}.log")
        journal = PeerJournal(self.folder, ids)
        self.peers = [self._peer(i, ticket) for i in ids]
        first = self._restore(ticket, journal)
        self._train(first, journal)
        for lock in locks:
            lock.release()

    def close(self) -> None:
        """Release threads and sockets."""
        self.pool.close()
        self.exchange.close()

    def _peer(self, peer: int, ticket: Ticket) -> Peer:
        """A peer, as the incarnation that its checkpoint remembers, or as the one that it was admitted as."""
        incarnation = ticket.incarnations[peer]
        if self.saved.get(peer):
            incarnation = self._checkpoints(peer).record(self.saved[peer][-1])["incarnation"]
        data = self.context.data
        return Peer(self.config, peer, data.shape, self.context.rounds, self.device, incarnation)

    def _checkpoints(self, peer: int) -> Checkpoints:
        return self.context.checkpoints(self.config, peer)

    def _exchange(self) -> tuple[Exchange, str]:
        times = self.config.exchange
        if times.elastic:
            return self._coordinated(), "coordinator"
        if times.kind == "inprocess" or (times.kind == "auto" and self.placement.world == 1):
            group = InProcessGroup(1, round_deadline=times.round_deadline, join_window=times.join_window)
            return group.exchange(), "inprocess"
        collective = CollectiveExchange(
            self.device,
            round_deadline=times.round_deadline,
            join_window=times.join_window,
            interface=times.interface,
        )
        return collective, "collective"

    def _coordinated(self) -> Exchange:
        from peers.config.credentials import access  # imports gRPC: only this exchange needs it
        from peers.exchange.coordinated import CoordinatedExchange

        times = self.config.exchange
        if times.address is None:
            raise ConfigError("exchange.kind = 'coordinator' needs the coordinator's address: --coordinator HOST:PORT")
        return CoordinatedExchange(
            access(self.config, times.address),
            run_name(self.config),
            self.device,
            join_window=times.join_window,
            shared_memory=times.shared_memory,
            any_id=self.hosting.any_id,
            stopping=self.stop.requested,
        )

    def _hello(self) -> Hello:
        return Hello(
            peers=self.hosting.ids,
            group=self.config.group.peers or 0,
            shape=(self.config.data.batch, self.context.width),
            agreed={
                "configuration digest": configfile.identity_digest(self.context.facts),
                "data fingerprint": self.context.data.fingerprint,
                "rounds": str(self.context.rounds),
            },
            saved=self.saved,
            rule=TargetSelection.of(self.config.consensus, self.config.run.seed),
            wire=self.config.exchange.wire,
        )

    def _restore(self, ticket: Ticket, journal: PeerJournal) -> int:
        """Restore the peers from their checkpoints and begin their journals; returns the round to begin at.

        A fixed group begins where all have saved. In an elastic one a peer that comes back takes its own newest
        checkpoint, however old, and goes on with the group's round.
        """
        first, newest = ticket.first_round, 0
        terms = Terms.of(sorted(ticket.incarnations), self.kind, self.device)
        for peer in self.peers:
            own = [round_ for round_ in self.saved.get(peer.id, ()) if round_ <= first]
            newest = own[-1] if own else 0
            if newest:
                self.spent = max(self.spent, self._checkpoints(peer.id).load(peer, newest)["seconds"])
                logger.info("peer %d resumed at round %d from its checkpoint of round %d", peer.id, first, newest)
            elif self.saved.get(peer.id):
                logger.warning("not all peers have saved a common round: peer %d begins again", peer.id)
            self._checkpoints(peer.id).discard_after(newest)
            admitted = ticket.incarnations[peer.id]
            journal.begin(peer.id, Life(first, peer.incarnation, newest, admitted, ticket.epoch, terms))
        if self.placement.rank == 0 and not self.exchange.elastic:
            forget_after(self.folder, first)
        return first

    def _train(self, first: int, journal: PeerJournal) -> None:
        recorder = Recorder(self.folder, [peer.id for peer in self.peers], first, self.config.metrics.tensorboard)
        before = {peer.id: self.context.evaluator.live(peer.initial_network()) for peer in self.peers}
        began = time.perf_counter()
        try:
            trainer = Trainer(
                self.config,
                self.peers,
                self.exchange,
                self.context.data,
                self.context.rounds,
                self.pool,
                recorder,
                live=lambda peer: self.context.evaluator.live(peer.network),
                save=lambda peer, done: self._save(peer, done, time.perf_counter() - began),
                stopping=self.stop.requested,
                live_before=before,
                keep=lambda peer, done: snapshots.save(self.folder, peer.id, done, peer.network),
                snapshots=snapshots.chosen(self.config.checkpoint.snapshots, self.context.rounds),
                journal=journal,
            )
            done = trainer.run(first)
        finally:
            recorder.close()
        self.spent += time.perf_counter() - began
        if done < self.context.rounds:
            self._part(done, trainer.ended)
        else:
            self._conclude(done)

    def _save(self, peer: Peer, done: int, seconds: float) -> None:
        self._checkpoints(peer.id).save(peer, done, {"seconds": self.spent + seconds})

    def _part(self, done: int, ended: str | None) -> None:
        """Leave before the last round: stopped, or the run ended without this worker's doing."""
        self.exchange.leave({peer.id: {} for peer in self.peers})
        why = f": {ended}" if ended else ""
        logger.info("stopped after round %d of %d%s; saved; --resume auto continues", done, self.context.rounds, why)

    def _conclude(self, done: int) -> None:
        """Evaluate the peers before and after training, hand in the final reports; the lead writes the summary."""
        reports = dict(zip([peer.id for peer in self.peers], self.pool.map(self._report, self.peers), strict=True))
        handed_in = {peer: report for peer, report in self.exchange.leave(reports).items() if report}
        everyone, wrong = summary.sound(handed_in, next(iter(reports.values()))["final"])
        for peer, why in sorted(wrong.items()):
            logger.warning("the report of peer %d is left out: %s", peer, why)
        if min(everyone) in reports:
            pixels = self.context.evaluator.pixels()
            result = summary.summarize(self.config, self.kind, done, pixels, everyone)
            result["gpu"] = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
            summary.write(self.folder, result)
            logger.info("results in %s", self.folder.path)
            sys.stdout.write(summary.table(result) + "\n")

    def _report(self, peer: Peer) -> dict[str, Any]:
        baseline = self.context.evaluator.network(peer.initial_network())
        final = self.context.evaluator.network(peer.selected_network())
        logger.info("peer %d: at initialization %s; now %s", peer.id, _scores(baseline), _scores(final))
        return {
            "network": self.config.network_of(peer.id).name,
            "incarnation": peer.incarnation,
            "pid": os.getpid(),
            "baseline": baseline,
            "final": final,
            "stepped": peer.stepped,
            "skips": dict(peer.skips),
            "selected": None if peer.selection.best is None else peer.selection.best.round,
            "seconds": self.spent,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker as this process; returns its exit code."""
    options = _parser().parse_args(arguments)
    stop = StopSignal()
    try:
        placement = Placement.of()
    except PeersError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    set_up_logging(placement)
    stop.install()
    end_with_parent()
    sets = list(options.set)
    if options.coordinator is not None:
        sets += ["exchange.kind=coordinator", f"exchange.address={options.coordinator}"]
    existing: Existing = "overwrite" if options.overwrite else "refuse"
    if options.resume == "auto" or placement.restarts:
        existing = "resume"
    try:
        config = configfile.load(options.config, sets)
    except PeersError as exc:
        logger.error("%s", exc)
        return exc.exit_code
    return work(config, placement, existing, stop, first=options.peer)


def work(
    config: Config, placement: Placement, existing: Existing, stop: StopSignal, *, first: int | None = None
) -> int:
    """Run a worker in this thread; returns its exit code.

    Args:
        config: as loaded.
        placement: among the other workers; those of a fixed group meet where the environment says.
        existing: what to do with a run that is already there.
        stop: asks it to save and end.
        first: the first of the peers that it hosts, where a coordinator is asked for it.
    """
    keep_memory()
    try:
        config = with_group(config, placement)
        worker = Worker(config, placement, existing, _hosted_peers(config, placement, first), stop)
        try:
            worker.run()
        finally:
            worker.close()
    except PeersError as exc:
        logger.error("%s", exc)
        return exc.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m peers.worker",
        description="Hosts one peer of a group, or several. Without arguments: the bundled digits and 4 peers "
        "(under torchrun one for each process).",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML configuration")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one value, e.g. run.seed=1; repeatable"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="exchange through the coordinator at this address")
    parser.add_argument(
        "--peer",
        metavar="ID",
        type=int,
        help="with --coordinator: be this peer (the first of those hosted); by default whichever is free",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", choices=["auto", "never"], default="never", help="auto: continue from the newest common checkpoint"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the run if it exists")
    return parser


def _hosted_peers(config: Config, placement: Placement, first: int | None) -> HostedPeers:
    """Which peers this worker hosts: by its rank, by --peer, or as the coordinator says.

    Raises:
        ConfigError: --peer makes no sense here.
    """
    if not config.exchange.elastic:
        if first is not None:
            raise ConfigError(f"--peer {first} goes with --coordinator: in a fixed group the rank decides")
        return HostedPeers(hosted(config, placement))
    per_worker = config.group.peers_per_worker
    if first is None and placement.world == 1:
        return HostedPeers(tuple(range(per_worker)), any_id=True)
    first = placement.rank * per_worker if first is None else first
    peers = config.group.peers or 0
    last = min(first + per_worker, peers) if first < peers else first + per_worker
    return HostedPeers(tuple(range(first, last)))


def _scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{summary.TITLES[probe]} {value:.1f}" for probe, value in scores.items())
