"""What is compared: loads (which networks compute what) and arrangements (which processes, which exchange)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from peers.config import loading as configfile
from peers.config.schema import Config

Kind = Literal["inprocess", "compiled", "collective", "shared", "stream", "none", "barrier", "loop", "loop on one core"]
"""How outputs travel: three exchanges (in process also with compiled networks, the coordinator's with shared memory or
on its stream), none, none but waiting for each other in every round, or the loop."""

EXCHANGES = {
    **{"inprocess": "inprocess", "compiled": "inprocess", "collective": "collective"},
    **{"shared": "coordinator", "stream": "coordinator"},
}
"""`exchange.kind` of each kind; the others have no exchange, and are configured as if it were the default."""

DIGITS = ("data.name=digits", "data.batch=128", "network.name=mlp")
CIFAR = ("data.name=synthetic", "data.image_size=32", "data.channels=3", "data.images=4096")
TOY = (
    *("data.name=synthetic", "data.images=64", "data.image_size=8", "data.channels=1", "data.batch=16"),
    *("network.depth=2", "network.width=8"),
)
NETWORKS = {
    "mlp": DIGITS,
    "convnet": (*CIFAR, "data.batch=128", "network.name=convnet", "network.width=32"),
    "resnet18": (*CIFAR, "network.name=resnet18", "precision=bf16"),
}
"""Settings of each network: `mlp` is the product's default run, the others see images of CIFAR's shape."""


@dataclass(frozen=True)
class Load:
    """What every arrangement computes.

    Attributes:
        network: key of `NETWORKS`.
        peers: of the group.
        settings: of the configuration, key=value.
        device: cpu or cuda.
        compile: let torch compile each network.
    """

    network: str
    peers: int
    settings: tuple[str, ...]
    device: str = "cpu"
    compile: bool = False

    def config(self, kind: Kind, workers: int, folder: str = "runs") -> Config:
        """The configuration of the group in one arrangement; probes are off, all else is as by default."""
        sets = [
            *self.settings,
            # One peer alone is measured as one of two: a group of one is refused.
            *(f"group.peers={max(2, self.peers)}", f"group.peers_per_worker={self.peers // workers}"),
            *(f"exchange.kind={EXCHANGES.get(kind, 'auto')}", f"device={self.device}", "probe.every=0"),
            *(f"run.out={folder}", f"run.name={kind}-{workers}"),
        ]
        if self.compile or kind == "compiled":
            sets.append("compile=true")
        if importlib.util.find_spec("tensorboard") is None:  # machines that lend a GPU may lack it
            sets.append("metrics.tensorboard=false")
        return configfile.load(None, sets)


def load_of(
    network: str,
    peers: int,
    *,
    toy: bool = False,
    device: str = "cpu",
    batch: int | None = None,
    compiled: bool = False,
) -> Load:
    """A load by the name of its network.

    Args:
        network: key of `NETWORKS`.
        peers: of the group.
        toy: make it one of milliseconds, whatever else is asked for.
        device: cpu or cuda.
        batch: images in a round instead of the network's own number.
        compiled: let torch compile each network.
    """
    settings = NETWORKS[network] if batch is None else (*NETWORKS[network], f"data.batch={batch}")
    if toy:
        settings = (*TOY, f"network.name={network if network == 'mlp' else 'convnet'}")
    return Load(network, peers, settings, device, compiled)


@dataclass(frozen=True)
class Arrangement:
    """Who hosts the peers, and how their outputs travel.

    Attributes:
        name: as tables call it.
        workers: processes; each hosts as many peers.
        kind: how outputs travel.
    """

    name: str
    workers: int
    kind: Kind


LOOP = Arrangement("researcher's loop, all cores", 1, "loop")
LOOP_ON_ONE_CORE = Arrangement("researcher's loop, one core", 1, "loop on one core")
LOOPS = (LOOP, LOOP_ON_ONE_CORE)
"""Small networks are faster on one core, large ones on all: the yardstick is the faster of the two."""


def arrangements(peers: int, *, compiled: bool = False) -> list[Arrangement]:
    """Those of a group with an exchange, of two or more peers; on request one with compiled networks."""
    found = [
        Arrangement("one worker, in-process", 1, "inprocess"),
        Arrangement(f"{_who(peers, peers)}, collective", peers, "collective"),
        Arrangement(f"{_who(peers, peers)}, coordinator, shared memory", peers, "shared"),
        Arrangement(f"{_who(peers, peers)}, coordinator, stream", peers, "stream"),
    ]
    if peers > 2 and peers % 2 == 0:
        found.append(Arrangement("two workers, collective", 2, "collective"))
    if compiled:
        found.append(Arrangement("one worker, in-process, compiled", 1, "compiled"))
    return found


def limit(of: Arrangement, peers: int) -> Arrangement:
    """The same processes without an exchange: as fast as rounds could be."""
    return replace(of, name=f"{_who(of.workers, peers)}, no exchange", kind="none")


def limits(of: Sequence[Arrangement], peers: int) -> list[Arrangement]:
    """Those without an exchange that these are compared with, each once."""
    return list(dict.fromkeys(limit(each, peers) for each in of))


def in_step(of: Sequence[Arrangement], peers: int) -> list[Arrangement]:
    """Those of several processes that do nothing together but wait for each other in every round, as any group must."""
    several = (replace(limit(each, peers), kind="barrier") for each in of if each.workers > 1)
    return list(dict.fromkeys(replace(each, name=f"{each.name}, but a barrier") for each in several))


def _who(workers: int, peers: int) -> str:
    if workers == peers:
        return "a worker for each peer"
    return {1: "one worker", 2: "two workers"}[workers]
