"""Rate limit: a token bucket."""

from __future__ import annotations


class Bucket:
    """A token bucket: `burst` at once, `rate` a second in the long run.

    Args:
        rate: tokens a second.
        burst: tokens that it holds at most, and at the start.
        now: the clock, seconds.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> float:
        """Take a token; 0, or the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
