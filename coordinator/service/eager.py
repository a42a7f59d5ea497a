"""Coroutines that begin at once, as eager tasks do from Python 3.12 on.

A task waits for its turn in the event loop even where its coroutine would never wait for anything; on the way of a
publication such turns cost more than the arithmetic.
"""

from __future__ import annotations

import asyncio
import types
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
    return asyncio.ensure_future(_rest(coroutine, awaited))


@types.coroutine
def _rest(begun: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine that waits for something: its task waits for that in its place."""
    while True:
        try:
            answer = yield awaited
        except BaseException as exc:  # a cancellation, among others: the coroutine's own to handle
            try:
                awaited = begun.throw(exc)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            continue
        try:
            awaited = begun.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
