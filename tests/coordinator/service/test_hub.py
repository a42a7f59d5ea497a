"""The end of a hub: nothing that still waits for its turn comes to a store that is closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.service.hub import Hub
from coordinator.service.metrics import Metrics
from coordinator.service.store import StateStore
from tests.coordinator.service.settled import settings


def test_a_step_that_waits_for_its_turn_ends_with_the_hub(tmp_path: Path) -> None:
    """It is cancelled when its turn comes; one that has its turn is carried out."""

    async def main() -> None:
        store = StateStore(str(tmp_path), "run", "digest")
        hub = Hub(settings(), store, Metrics())
        await hub.stop("enough")
        async with hub._lock:
            waits = asyncio.ensure_future(hub.leave(1, {1: b"{}"}))
            await asyncio.sleep(0)
            hub.close()
            store.close()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert not hub.reports
        assert not hub.failed.done()

    asyncio.run(main())
