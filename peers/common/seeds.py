"""Seeds: everything random in a run is derived from (run seed, purpose, further numbers).

Each use draws from a generator of its own, made when it is needed: nothing depends on how often another part drew,
so a run that resumes at round r has no generator state to restore but r itself.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit number for one purpose of a run, the same on every machine.

    Args:
        seed: the run's seed.
        purpose: what is drawn, e.g. "init" or "batches"; different purposes are independent.
        numbers: what else sets the draw apart, e.g. peer, incarnation, round.
    """
    key = purpose.encode() + b"\0" + struct.pack(f"<{1 + len(numbers)}q", seed, *numbers)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def torch_generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator for one purpose; CPU, so that its draws are the same with and without a GPU."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


def numpy_generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A numpy generator for one purpose."""
    import numpy as np

    return np.random.Generator(np.random.Philox(derive(seed, purpose, *numbers)))
