"""`python -m peers.worker`: the process that hosts one peer, or several.

Under torchrun it takes its rank and rendezvous from the environment; alone it hosts the whole group in process.
This is the composition root: everything that a worker is made of is made here. Exit codes: see `peers.errors`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peers import configfile, summary
from peers.config import Config
from peers.crew import Crew, compute_threads
from peers.draws import Rule
from peers.errors import PeersError
from peers.exchange.base import Exchange, Hello
from peers.exchange.collective import CollectiveExchange
from peers.exchange.inprocess import InProcessGroup
from peers.metrics import Recorder, forget_after
from peers.peer import Peer
from peers.place import Place, device_of, hosted, with_group
from peers.preflight import check, saved_rounds
from peers.process import StopSignal, end_with_parent, set_up_logging
from peers.runfolder import Existing, PeerLock
from peers.trainer import Trainer

logger = logging.getLogger("peers.worker")


@dataclass
class Worker:
    """The parts of one worker, made in the order in which they can fail, cheapest first."""

    config: Config
    place: Place
    existing: Existing
    stop: StopSignal
    probes: dict[int, dict[str, Any]] = field(default_factory=dict)
    spent: float = 0.0

    def __post_init__(self) -> None:
        config = self.config
        self.device = device_of(config, self.place)
        self.grounds = check(config, self.device)
        if self.lead:
            self.grounds.folder.prepare(config, self.existing)
        ids = hosted(config, self.place)
        self.checkpoints = {peer: self.grounds.checkpoints(config, peer) for peer in ids}
        self.saved: dict[int, tuple[int, ...]] = dict.fromkeys(ids, ())
        if self.existing == "resume":
            self.saved = saved_rounds(config, self.grounds, ids)
        self.peers = [Peer(config, i, self.grounds.data.shape, self.grounds.rounds, self.device) for i in ids]
        threads = compute_threads(config.group.threads, len(ids) * self.place.local_world)
        self.crew = Crew(len(ids), self.device, threads, self.place.local_world)
        self.exchange, self.kind = self._exchange()

    @property
    def lead(self) -> bool:
        """Whether this worker speaks for the run: it makes the folder and writes the summary."""
        return self.place.rank == 0

    def run(self) -> None:
        """Judge, join, train, judge again, leave."""
        ids = [peer.id for peer in self.peers]
        logger.info("process %d hosts peers %s on %s", os.getpid(), ids, self.device)
        self._judge_before()
        ticket = self.exchange.join(self._hello())
        locks = [PeerLock(self.grounds.folder, i) for i in ids]
        self._log_to_file()
        self._restore(ticket.first_round)
        self._train(ticket.first_round)
        for lock in locks:
            lock.release()

    def _train(self, first: int) -> None:
        recorder = Recorder(
            self.grounds.folder, [peer.id for peer in self.peers], first, self.config.metrics.tensorboard
        )
        for peer in self.peers:
            recorder.record(peer.id, first, {"knn_live_baseline": self.probes[peer.id]["baseline_live"]})
        began = time.perf_counter()
        try:
            trainer = Trainer(
                self.config,
                self.peers,
                self.exchange,
                self.grounds.data,
                self.grounds.rounds,
                self.crew,
                recorder,
                live=lambda peer: self.grounds.judge.live(peer.network),
                save=lambda peer, done: self._save(peer, done, time.perf_counter() - began),
                stopping=self.stop.requested,
            )
            done = trainer.run(first)
        finally:
            recorder.close()
        self.spent += time.perf_counter() - began
        self._end(done)

    def close(self) -> None:
        """Release threads and sockets."""
        self.crew.close()
        self.exchange.close()

    def _exchange(self) -> tuple[Exchange, str]:
        times = self.config.exchange
        if times.kind == "inprocess" or (times.kind == "auto" and self.place.world == 1):
            group = InProcessGroup(1, round_deadline=times.round_deadline, join_window=times.join_window)
            return group.exchange(), "inprocess"
        collective = CollectiveExchange(self.device, round_deadline=times.round_deadline, join_window=times.join_window)
        return collective, "collective"

    def _hello(self) -> Hello:
        return Hello(
            peers=tuple(peer.id for peer in self.peers),
            group=self.config.group.peers or 0,
            shape=(self.config.data.batch, self.grounds.width),
            agreed={
                "configuration digest": configfile.identity_digest(self.grounds.facts),
                "data fingerprint": self.grounds.data.fingerprint,
                "rounds": str(self.grounds.rounds),
            },
            saved=self.saved,
            rule=Rule.of(self.config.consensus, self.config.run.seed),
            wire=self.config.exchange.wire,
        )

    def _judge_before(self) -> None:
        """Probe the networks as they were at initialization, unless a checkpoint remembers how that went."""
        for peer in self.peers:
            if self.saved[peer.id]:
                record = self.checkpoints[peer.id].record(self.saved[peer.id][-1])
                self.probes[peer.id] = record["extra"]["probes"]
            else:
                self.probes[peer.id] = {
                    "baseline": self.grounds.judge.network(peer.network),
                    "baseline_live": self.grounds.judge.live(peer.network),
                }
                logger.info("peer %d at initialization: %s", peer.id, _scores(self.probes[peer.id]["baseline"]))
            if peer.id == 0 and "pixels" not in self.probes[0]:
                self.probes[0]["pixels"] = self.grounds.judge.pixels()

    def _restore(self, first: int) -> None:
        if first > 0:
            extras = [self.checkpoints[peer.id].load(peer, first) for peer in self.peers]
            self.spent = max(extra["seconds"] for extra in extras)
            logger.info("resumed at round %d", first)
        elif any(self.saved.values()):
            logger.warning("not all peers have saved a common round: the group begins again at round 0")
        for checkpoints in self.checkpoints.values():
            checkpoints.discard_after(first)
        if self.lead:
            forget_after(self.grounds.folder, first)

    def _save(self, peer: Peer, done: int, seconds: float) -> None:
        extra = {"probes": self.probes[peer.id], "seconds": self.spent + seconds}
        self.checkpoints[peer.id].save(peer, done, extra)

    def _end(self, done: int) -> None:
        if done < self.grounds.rounds:
            self.exchange.leave({peer.id: {} for peer in self.peers})
            logger.info("stopped after round %d of %d, saved; --resume auto continues", done, self.grounds.rounds)
            return
        reports = {peer.id: self._report(peer) for peer in self.peers}
        everyone = self.exchange.leave(reports)
        if self.lead:
            result = summary.summarize(self.config, self.kind, done, self.probes[0]["pixels"], everyone)
            summary.write(self.grounds.folder, result)
            logger.info("results in %s", self.grounds.folder.path)
            sys.stdout.write(summary.table(result) + "\n")

    def _report(self, peer: Peer) -> dict[str, Any]:
        final = self.grounds.judge.network(peer.network)
        logger.info("peer %d now: %s", peer.id, _scores(final))
        return {
            "network": self.config.network_of(peer.id).name,
            "pid": os.getpid(),
            "baseline": self.probes[peer.id]["baseline"],
            "final": final,
            "stepped": peer.stepped,
            "skips": dict(peer.skips),
            "seconds": self.spent,
        }

    def _log_to_file(self) -> None:
        handler = logging.FileHandler(self.grounds.folder.logs / f"worker-{self.place.rank}.log")
        handler.setFormatter(logging.getLogger().handlers[0].formatter)
        logging.getLogger().addHandler(handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker; returns its exit code."""
    options = _parser().parse_args(arguments)
    place = Place.of()
    set_up_logging(place)
    try:
        config = with_group(configfile.load(options.config, options.set), place)
        existing: Existing = "overwrite" if options.overwrite else "refuse"
        if options.resume == "auto" or place.restarts:
            existing = "resume"
        stop = StopSignal()
        stop.install()
        end_with_parent()
        worker = Worker(config, place, existing, stop)
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
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", choices=["auto", "never"], default="never", help="auto: continue from the newest common checkpoint"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the run if it exists")
    return parser


def _scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{summary.TITLES[probe]} {value:.1f}" for probe, value in scores.items())


if __name__ == "__main__":
    sys.exit(main())
