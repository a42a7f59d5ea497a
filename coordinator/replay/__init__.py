"""Replay: computes a run again from its journals, configuration and seeds, and compares the results bit for bit.

`history` is what the coordinator's journal tells, `lives` joins it with the journals of the peers; `play` goes through
the rounds, which `closing` closes, and `compare` looks at what came out. `run` is the whole as one call, `command` the
command line's side.
"""

from coordinator.replay.result import Difference, Replayed
from coordinator.replay.run import replay

__all__ = ["Difference", "Replayed", "replay"]
