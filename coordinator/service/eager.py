"""Coroutines that begin at once, as eager tasks do from Python 3.12 on.

A task waits for its turn in the event loop even where its coroutine would never wait for anything; on the way of a
publication such turns cost more than the arithmetic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Run a coroutine up to where it has to wait; what is left becomes a task.

    Returns:
        the task; or, where nothing is left, a future that is done.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.set_result(stop.value)
        return done
    except Exception as exc:
        failed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        failed.set_exception(exc)
        return failed
    return asyncio.get_running_loop().create_task(_Rest(coroutine, awaited))


async def whole(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, even where whoever awaits this is cancelled meanwhile."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    return await asyncio.shield(asyncio.get_running_loop().create_task(_Rest(coroutine, awaited)))


class _Rest(Coroutine[Any, Any, T]):
    """What is left of a coroutine that has begun: first of all it hands over what that waits for.

    Args:
        begun: the coroutine.
        awaited: what it waits for.
    """

    def __init__(self, begun: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._begun = begun
        self._handed = False
        self._awaited = awaited

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        if self._handed:
            return self._begun.send(value)
        self._handed = True
        return self._awaited

    def throw(self, *exc: Any) -> Any:
        """See `Coroutine`: a cancellation, among others, reaches the coroutine where it waits."""
        self._handed = True
        return self._begun.throw(*exc)

    def close(self) -> None:
        """See `Coroutine`."""
        self._begun.close()

    def __await__(self) -> Generator[Any, Any, T]:
        """No one awaits it but its task, which calls `send`."""
        raise NotImplementedError
