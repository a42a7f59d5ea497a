"""A coroutine that begins at once ends as any other."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.service.eager import begin


def test_what_never_waits_is_done_before_anybody_looks() -> None:
    """Its value is there, or its exception, without a turn of the loop."""

    async def value() -> int:
        return 7

    async def error() -> int:
        raise KeyError("x")

    async def main() -> None:
        done, failed = begin(value()), begin(error())
        assert done.done()
        assert done.result() == 7
        assert isinstance(failed.exception(), KeyError)

    asyncio.run(main())


def test_what_waits_goes_on_as_a_task() -> None:
    """It runs up to where it waits, gets what it waits for, errors too, and gives its value."""

    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), list[object]()
        first, second = loop.create_future(), loop.create_future()

        async def body() -> str:
            seen.append("begun")
            seen.append(await first)
            try:
                await second
            except ValueError as exc:
                seen.append(str(exc))
            await asyncio.sleep(0)
            return "end"

        task = begin(body())
        assert seen == ["begun"]
        first.set_result(1)
        second.set_exception(ValueError("no"))
        assert await task == "end"
        assert seen == ["begun", 1, "no"]

    asyncio.run(main())


def test_a_cancellation_reaches_it_where_it_waits() -> None:
    """It may clean up, and ends as cancelled."""

    async def main() -> None:
        cleaned = []

        async def body() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cleaned.append(True)

        task = begin(body())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned == [True]

    asyncio.run(main())
