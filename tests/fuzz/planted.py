"""Target `planted`: wrong on purpose, to see that it is noticed."""

from __future__ import annotations

import threading


def once(data: bytes) -> None:
    """Fails on one kind of input, and hangs on another."""
    if data[:1] == b"!":
        raise RuntimeError("planted")
    if data[:1] == b"?":
        threading.Event().wait(60)
