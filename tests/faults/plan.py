"""A fault plan is a value: at this round, to this peer, this fault. It can be printed, kept as JSON, and drawn.

    [{"kind": "sigstop", "round": 40, "peer": 3}, {"kind": "coordinator_kill", "round": 60, "peer": -1}]

A fault happens at its round: when all rounds before have ended, and before any output of it was published.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.faulty_exchange import KINDS as INSIDE
from tests.faults.faulty_exchange import Fault
from tests.faults.worker import STOLEN

PROCESS = {
    "sigkill": "SIGKILL; it is started again and resumes from its checkpoint",
    "sigterm": "SIGTERM; it saves and leaves, is started again and resumes",
    "sigstop": "SIGSTOP until it is expelled, or for `seconds`; then SIGCONT",
    "replaced": "SIGKILL for good; a newcomer, a new network, takes its place",
    "out_of_memory": "its memory cgroup is full: the kernel kills it; it is started again",
    "corrupted_checkpoint": "killed, and a byte of its newest checkpoint is flipped; it resumes from the one before",
    "duplicate_identity": "a second worker comes with its id",
    STOLEN: "a stream of another process comes with its bearer",
    "clock_jump": "its wall clock jumps by `seconds`",
}
"""What is done to the process of a worker, from outside."""
LINK = {
    "slow_link": "what it sends and receives takes `seconds` longer for `rounds` rounds",
    "dropped": "its connections are reset",
    "half_open": "its connections carry nothing any more, and neither side is told",
    "partition": "its host is cut off until it is expelled",
}
"""What is done to the way between a worker and the coordinator."""
DISK = {
    "disk_full": "the disk of its checkpoints is full: it ends; there is room again, and it resumes",
    "read_only": "the same with a disk that cannot be written",
}
COORDINATOR = {
    "coordinator_kill": "SIGKILL; after `seconds` it is started again",
    "coordinator_stop": "SIGSTOP for `seconds`",
    "coordinator_restart": "SIGTERM; it is started again",
    "coordinator_clock_jump": "its wall clock jumps by `seconds`",
}
"""What is done to the coordinator."""
OUTSIDE = {**PROCESS, **LINK, **DISK, **COORDINATOR}
Some: TypeAlias = "tuple[str, int] | Fault"
"""A fault; (kind, peer) where nothing else is to be said."""
NOBODY = -1
"""The peer of a fault that happens to the coordinator."""


@dataclass(frozen=True)
class FaultPlan:
    """Faults in the order of their rounds.

    Raises:
        ValueError: a kind is unknown, or a fault comes before the one that is listed before it.
    """

    faults: tuple[Fault, ...]

    def __post_init__(self) -> None:
        unknown = sorted({fault.kind for fault in self.faults} - {*INSIDE, *OUTSIDE})
        if unknown:
            raise ValueError(f"unknown kinds of faults {unknown}; known are {sorted({*INSIDE, *OUTSIDE})}")
        rounds = [fault.round for fault in self.faults]
        if rounds != sorted(rounds):
            raise ValueError(f"the faults of a plan are given in the order of their rounds, found {rounds}")

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __str__(self) -> str:
        return "\n".join(f"round {fault.round}: {_whom(fault)}: {fault.kind}{_how(fault)}" for fault in self.faults)

    def counted(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(fault.kind for fault in self.faults)

    def of(self, *kinds: str) -> set[int]:
        """Peers that have a fault of these kinds."""
        return {fault.peer for fault in self.faults if fault.kind in kinds}

    def as_json(self) -> str:
        """The plan as JSON."""
        return json.dumps([dataclasses.asdict(fault) for fault in self.faults], indent=1)

    @classmethod
    def from_json(cls, text: str) -> FaultPlan:
        """The plan of a JSON text."""
        return cls(tuple(Fault(**fault) for fault in json.loads(text)))

    @classmethod
    def load(cls, path: Path) -> FaultPlan:
        """The plan of a JSON file."""
        return cls.from_json(path.read_text())

    @classmethod
    def spaced(cls, *faults: Some | tuple[Some, ...], first: int = 12, apart: int = 12) -> FaultPlan:
        """Faults one after the other, `apart` rounds apart, those of an inner tuple together."""
        made: list[Fault] = []
        for number, some in enumerate(faults):
            inner: Any = some if isinstance(some, tuple) and not isinstance(some[0], str) else (some,)
            for one in inner:
                fault = one if isinstance(one, Fault) else Fault(one[0], 0, one[1])
                made.append(dataclasses.replace(fault, round=first + apart * number))
        return cls(tuple(made))


def _whom(fault: Fault) -> str:
    return "the coordinator" if fault.peer == NOBODY else f"peer {fault.peer}"


def _how(fault: Fault) -> str:
    plain = Fault(fault.kind, fault.round, fault.peer)
    fields = [name for name in ("rounds", "seconds", "scale") if getattr(fault, name) != getattr(plain, name)]
    return "".join(f", {name} {getattr(fault, name):g}" for name in fields)
