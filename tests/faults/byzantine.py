"""What one lying member of eight costs the others, by aggregator and attack.

    uv run python -m tests.faults.byzantine [--seeds 5] [--rounds 100] [--json FILE]

Groups of eight on digits with the recipe of deploy/local.yaml, through a real coordinator with its gate. Peer 7 lies in
every round, from a worker of its own; the other seven, in another worker, are judged before and after, and nobody else.
The unit is the group, that is, the seed. What a lie costs is the difference to the same seven beside an honest eighth,
paired by seed. Gains do not depend on time, but for one cell: a refused liar joins again and again, and whoever has
drawn it under random_peer meanwhile skips the step. Results go to tests/faults/results/byzantine.json, seed by seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from coordinator.experiment.statistics import Comparison, Interval, family, summarize
from coordinator.service.from_config import settings_of
from peers.common.errors import PeersError
from peers.config import loading as configfile
from peers.config.schema import Config
from peers.exchange.base import Exchange, Hello
from peers.exchange.coordinated import CoordinatedExchange
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.runs.metrics import Recorder
from peers.runs.run_folder import run_name
from peers.runs.summary import TITLES
from peers.transport.access import Access
from peers.worker.placement import Placement, with_group
from peers.worker.pool import PeerPool
from peers.worker.preflight import RunContext, check
from peers.worker.trainer import Trainer
from protos.consensus_pb2 import StatusRequest
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.benchmarks.measure import Table, machine, note
from tests.contracts.coordinated_arena import served
from tests.faults.faulty_exchange import Fault, FaultyExchange
from tests.faults.liars import LIES, Board, Colluding, Overheard, Stubborn

PEERS, LIAR = 8, 7
HONEST = tuple(peer for peer in range(PEERS) if peer != LIAR)
RECIPE = Path(__file__).parents[2] / "deploy" / "local.yaml"
RESULTS = Path(__file__).parent / "results"
AGGREGATORS = ("mean", "median", "trimmed_mean", "random_peer")
CPU = torch.device("cpu")
NONE = "no attack"


@dataclass(frozen=True)
class Attack:
    """What the liar publishes.

    Attributes:
        text: the same in words, for tables.
        kind: of a `Fault`, or of a `Colluding` liar, who knows what the others publish; None is honest.
        scale: of either.
    """

    text: str
    kind: str | None
    scale: float = 1.0


ATTACKS = {
    NONE: Attack(NONE, None),
    "flipped": Attack("flipped: its outputs x -1", "flipped"),
    "constant": Attack("constant: 1 everywhere", "constant"),
    "large": Attack("large: its outputs x 1e5", "large", 1e5),
    "large constant": Attack("large and constant: 1e5 everywhere", "constant", 1e5),
    "little": Attack("a little is enough: the others' mean - 1.5 deviations", "little", 1.5),
    "inner product": Attack("inner product: the others' mean x -10", "inner_product", 10.0),
    "refused": Attack("beyond the norm bound: its outputs x 1e9", "large", 1e9),
}
"""By name. Scales were fixed before any was tried."""


@dataclass(frozen=True)
class Trial:
    """What became of one group.

    Attributes:
        aggregator, attack, seed: which one.
        gain: points over initialization for each probe, mean over the honest peers.
        steps: optimizer steps, mean over the honest peers.
        refused: publications that the coordinator refused, by reply code.
        expelled: the newest reason why it expelled a worker; empty where it expelled none.
        ended: why the liar's worker ended early; empty where it did not.
    """

    aggregator: str
    attack: str
    seed: int
    gain: Mapping[str, float]
    steps: float
    refused: Mapping[str, int]
    expelled: str
    ended: str = ""


def configuration(aggregator: str, seed: int, rounds: int, out: str, *sets: str) -> Config:
    """The recipe for a group of eight; `sets` come last."""
    times = ("exchange.kind=coordinator", "exchange.heartbeat=30", "exchange.round_deadline=60")
    quiet = ("metrics.tensorboard=false", f"metrics.every={rounds}", "probe.every=0")
    run = (f"run.seed={seed}", f"run.rounds={rounds}", f"run.out={out}", f"group.peers={PEERS}")
    return with_group(
        configfile.load(RECIPE, [*run, f"consensus.target={aggregator}", *times, *quiet, *sets]), Placement()
    )


class Group:
    """Two workers as threads of this process, and their coordinator.

    Args:
        config: of the run.
        grounds: what it stands on.
        attack: of peer 7.
    """

    def __init__(self, config: Config, grounds: RunContext, attack: Attack) -> None:
        self.config, self.grounds, self.attack = config, grounds, attack
        self.board = Board()
        self.ended = ""
        self.honest: list[Peer] = []

    def run(self) -> dict[str, Any]:
        """All rounds; the coordinator's counts."""
        with tempfile.TemporaryDirectory() as state, served(settings_of(self.config, state=state)) as address:
            with ThreadPoolExecutor(2) as pool:
                lying = pool.submit(self._lie, address)
                self.honest = pool.submit(self._work, HONEST, Overheard(self._exchange(address), self.board)).result()
                lying.result()
            with closing(Access(address).channel()) as channel:
                status = CoordinatorStub(channel).GetStatus(StatusRequest(), timeout=20)  # type: ignore[no-untyped-call]
        return {"refused": dict(status.refused), "expelled": "".join(status.expelled[-1:])}

    def _exchange(self, address: str) -> CoordinatedExchange:
        window = self.config.exchange.join_window
        return CoordinatedExchange(Access(address), run_name(self.config), CPU, join_window=window)

    def _lie(self, address: str) -> None:
        """The liar's worker. It may well end before the others, who have to go on without it."""
        inner, attack = Stubborn(self._exchange(address)), self.attack
        exchange: Exchange = inner
        if attack.kind is not None and attack.kind in LIES:
            exchange = Colluding(inner, self.board, LIAR, attack.kind, attack.scale)
        elif attack.kind is not None:
            fault = Fault(attack.kind, 0, LIAR, rounds=self.grounds.rounds, scale=attack.scale)
            exchange = FaultyExchange(inner, [fault], lambda fault: None)
        try:
            self._work((LIAR,), exchange)
        except PeersError as exc:
            self.ended = str(exc)

    def _work(self, ids: tuple[int, ...], exchange: Exchange) -> list[Peer]:
        """What `peers.worker.worker` does between joining and leaving, without files and probes."""
        config, grounds = self.config, self.grounds
        pool = PeerPool(len(ids), CPU, threads=1, workers=PEERS)
        with closing(pool), closing(exchange):
            exchange.join(self._hello(ids))
            peers = [Peer(config, i, grounds.data.shape, grounds.rounds, CPU) for i in ids]
            with closing(Recorder(grounds.folder, list(ids), 0, tensorboard=False)) as recorder:
                Trainer(
                    config,
                    peers,
                    exchange,
                    grounds.data,
                    grounds.rounds,
                    pool,
                    recorder,
                    live=lambda peer: grounds.evaluator.live(peer.network),
                    save=lambda peer, done: None,
                    stopping=lambda: False,
                    live_before={},
                    keep=lambda peer, done: None,
                    snapshots=(),
                ).run(0)
            exchange.leave({i: {} for i in ids})
        return peers

    def _hello(self, ids: tuple[int, ...]) -> Hello:
        config, grounds = self.config, self.grounds
        agreed = {
            "configuration digest": configfile.identity_digest(grounds.facts),
            "data fingerprint": grounds.data.fingerprint,
            "rounds": str(grounds.rounds),
        }
        rule = TargetSelection.of(config.consensus, config.run.seed)
        shape = config.data.batch, grounds.width
        return Hello(ids, PEERS, shape, agreed, dict.fromkeys(ids, ()), rule, config.exchange.wire)


def formed(aggregator: str, attack: str, seed: int, rounds: int, out: str) -> Group:
    """A group that has not begun; its files go to the folder `out`."""
    config = configuration(aggregator, seed, rounds, out)
    grounds = check(config, CPU)
    grounds.folder.enter(config)
    return Group(config, grounds, ATTACKS[attack])


def trial(aggregator: str, attack: str, seed: int, rounds: int) -> Trial:
    """One group, judged."""
    with tempfile.TemporaryDirectory() as out:
        group = formed(aggregator, attack, seed, rounds, out)
        counts = group.run()
    before = beginning(seed, rounds)
    after = [group.grounds.evaluator.network(peer.network) for peer in group.honest]
    gain = {
        probe: round(statistics.fmean(new[probe] - old[probe] for old, new in zip(before, after, strict=True)), 3)
        for probe in TITLES
    }
    steps = statistics.fmean(peer.stepped for peer in group.honest)
    return Trial(aggregator, attack, seed, gain, round(steps, 2), ended=group.ended, **counts)


@lru_cache
def beginning(seed: int, rounds: int) -> list[dict[str, float]]:
    """How the honest peers of a seed are judged at initialization, which is the same in all of its groups."""
    config = configuration("mean", seed, rounds, "unused")
    grounds = check(config, CPU)
    networks = [Peer(config, i, grounds.data.shape, rounds, CPU).initial_network() for i in HONEST]
    return [grounds.evaluator.network(network) for network in networks]


def tables(trials: Sequence[Trial], aggregators: Sequence[str]) -> list[Table]:
    """Of each probe: what was gained, and what each attack costs."""
    seeds = sorted({one.seed for one in trials})
    made = []
    for probe, title in TITLES.items():
        gains = {(one.attack, one.aggregator, one.seed): one.gain[probe] for one in trials}
        cells = {
            (attack, rule): [gains[attack, rule, seed] for seed in seeds] for attack in ATTACKS for rule in aggregators
        }
        pairs = {key: (cells[key], cells[NONE, key[1]]) for key in cells if key[0] != NONE}
        told = family({"/".join(key): pair for key, pair in pairs.items()})
        costs = {key: told["/".join(key)] for key in pairs}
        gained = [[it.text, *(_gained(cells[name, rule]) for rule in aggregators)] for name, it in ATTACKS.items()]
        costing = [
            [it.text, *(_cost(costs[name, rule]) for rule in aggregators)]
            for name, it in ATTACKS.items()
            if name != NONE
        ]
        made.append(Table(f"Gain of the seven honest peers, {title}", _GAINED, ["peer 7", *aggregators], gained))
        made.append(Table(f"What peer 7 costs them, {title}", _COSTS, ["peer 7", *aggregators], costing))
    return made


_GAINED = (
    "Points over their own initialization, mean over seeds, with the 95 % interval of the mean; columns are the target "
    "rules."
)
_COSTS = (
    "The same minus the gain beside an honest eighth peer, paired by seed, with the 95 % interval; bold where p < 0.05 "
    "(paired t-test, Holm-corrected over the table)."
)


def _gained(values: Sequence[float]) -> str:
    summary = summarize(values)
    return f"{summary.mean:+.1f}{_interval(summary.t_interval)}"


def _cost(told: Comparison) -> str:
    shown = f"{told.difference:+z.1f}"
    text = (shown if float(shown) else shown.lstrip("+")) + _interval(told.t_interval)
    return f"**{text}**" if told.corrected is not None and told.corrected < 0.05 else text


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:z.1f} to {interval[1]:z.1f})"


def write(path: Path, trials: Sequence[Trial], rounds: int, aggregators: Sequence[str]) -> None:
    """Tables and every group behind them, in the form of a benchmark's results; complete seeds alone."""
    seeds = sorted({one.seed for one in trials})
    groups = {rule: {attack: _course(trials, rule, attack) for attack in ATTACKS} for rule in aggregators}
    found = {
        "command": f"uv run python -m tests.faults.byzantine --seeds {len(seeds)} --rounds {rounds}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "tables": [asdict(table) for table in tables(trials, aggregators)],
        "details": {"seeds": seeds, "groups": groups},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def _course(trials: Sequence[Trial], aggregator: str, attack: str) -> dict[str, Any]:
    """The groups of one cell, seed by seed, and how the last of them ended for the liar."""
    mine = sorted((one for one in trials if (one.aggregator, one.attack) == (aggregator, attack)), key=_seed)
    return {
        **{probe: [one.gain[probe] for one in mine] for probe in TITLES},
        "steps": [one.steps for one in mine],
        "refused": [sum(one.refused.values()) for one in mine],
        "expelled": mine[-1].expelled,
        "ended": mine[-1].ended,
    }


def _seed(one: Trial) -> int:
    return one.seed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all groups seed by seed; what there is is written after each seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.byzantine", description="See the module.")
    parser.add_argument("--seeds", type=int, default=5, help="groups for each aggregator and attack")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, default=RESULTS / "byzantine.json", metavar="FILE")
    parser.add_argument("--aggregators", nargs="+", default=AGGREGATORS, help="target rules")
    options = parser.parse_args(arguments)
    for name in ("coordinator", "peers"):
        logging.getLogger(name).setLevel(logging.ERROR)  # each refusal is a warning, and refusals are the point here
    torch.set_num_threads(1)
    trials: list[Trial] = []
    began = time.monotonic()
    for seed in range(options.seeds):
        for rule, attack in itertools.product(options.aggregators, ATTACKS):
            trials.append(trial(rule, attack, seed, options.rounds))
            note(f"{time.monotonic() - began:.0f} s: {trials[-1]}")
        write(options.json, trials, options.rounds, options.aggregators)
    note("\n\n".join(table.markdown() for table in tables(trials, options.aggregators)))


if __name__ == "__main__":
    main()
