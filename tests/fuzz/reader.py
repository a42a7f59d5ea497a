"""Decisions out of bytes: what a fuzzer mutates becomes calls, values and their order.

Once the bytes are used up every decision is zero, so each input has an end.
"""

from __future__ import annotations


class Reader:
    """Takes decisions off the front of some bytes.

    Args:
        data: the input.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """So many bytes, or what is left."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def below(self, bound: int) -> int:
        """A number from 0 up to, not including, `bound`, which is at most 256."""
        taken = self.take(1)
        return taken[0] % bound if taken else 0

    def flag(self) -> bool:
        """Yes or no, more often no."""
        return self.below(4) == 3

    def number(self) -> int:
        """A number of up to 64 bits: small ones, and those around the powers of two, come easily."""
        kind = self.below(8)
        if kind < 5:
            return self.below(256)
        if kind == 5:
            return int.from_bytes(self.take(8), "little")
        edge = 1 << self.below(65)
        return max(0, min(2**64 - 1, edge + self.below(3) - 1))

    def small(self) -> int:
        """A number of up to 32 bits."""
        return self.number() % 2**32

    def chunk(self) -> bytes:
        """Up to 255 bytes."""
        return self.take(self.below(256))

    def numbers(self, most: int = 8) -> list[int]:
        """Up to `most` numbers of 32 bits."""
        return [self.small() for _ in range(self.below(most + 1))]
