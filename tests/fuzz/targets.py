"""What can be fuzzed: names, what is measured of each, and the limits that it must keep."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """Code under attack.

    Attributes:
        module: below `tests.fuzz`; its `once` takes one input and raises where something is wrong.
        covered: modules whose coverage leads the fuzzer.
        longest: bytes of an input.
        seconds: that one input may take; more is a hang.
        mib: of memory that the process may have.
    """

    module: str
    covered: tuple[str, ...]
    longest: int
    seconds: int = 10
    mib: int = 512

    def load(self) -> Callable[[bytes], None]:
        """Import it, and all that it attacks."""
        once: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{self.module}").once
        return once


TARGETS = {
    "frames": Target("frames", ("protos", "coordinator.service.validation"), 512),
    "service": Target("service", ("protos", "coordinator.service", "peers.exchange"), 768),
    "worker": Target("worker", ("protos", "peers.exchange"), 768),
    "checkpoint": Target("checkpoint", ("peers.runs.checkpoint", "peers.method.best_checkpoint"), 1024, mib=2048),
    "config": Target("config", ("peers.config.schema", "peers.config.loading", "yaml"), 512),
}
PLANTED = Target("planted", ("tests.fuzz.planted",), 8, seconds=1)
"""Not one of them: wrong on purpose."""


def named(name: str) -> Target:
    """The target of a name."""
    return PLANTED if name == "planted" else TARGETS[name]


def seeds(name: str) -> list[Path]:
    """The inputs of a target that the tree keeps."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
