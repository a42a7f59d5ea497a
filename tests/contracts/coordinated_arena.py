"""Groups that meet at a coordinator: the service in a thread of this process, workers in threads, gRPC between them."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from coordinator.certificates import Certificates, make_certs
from coordinator.service.server import listen
from coordinator.service.settings import ServiceSettings, Tls
from peers.exchange.coordinated import CoordinatedExchange
from peers.method.target_selection import TargetSelection
from peers.transport.access import Access
from tests.contracts.arenas import WINDOW, Scenario, run_in_threads
from tests.contracts.scenarios import RUN, SEED, Spec

TOKEN = "a token of more than sixteen characters"  # noqa: S105  # of the tests' own coordinators


class CoordinatedArena:
    """Workers are threads; each scenario gets a coordinator of its own."""

    def __init__(self, *, shared: bool = False, tls: bool = False) -> None:
        self._shared, self._tls = shared, tls
        self._folder = tempfile.TemporaryDirectory()
        self._certs = make_certs(Path(self._folder.name) / "certs", ["127.0.0.1"]) if tls else None

    def run(self, scenario: Scenario, spec: Spec) -> list[Any]:
        with tempfile.TemporaryDirectory() as state, served(self._settings(spec, state)) as address:
            exchanges = [self._exchange(address) for _ in spec.hosted]
            results = run_in_threads(scenario, spec, exchanges)
            assert all(exchange.shares_memory == self._shared or exchange.spent for exchange in exchanges)
            return results

    def close(self) -> None:
        self._folder.cleanup()

    def _settings(self, spec: Spec, state: str) -> ServiceSettings:
        certs = self._certs
        return ServiceSettings(
            run_id=RUN,
            state=state,
            rule=TargetSelection(spec.rule, SEED, spec.k),
            rounds=1000,
            shape=spec.shape,
            group=spec.group,
            heartbeat=spec.deadline,
            round_deadline=spec.deadline,
            join_window=WINDOW,
            token=TOKEN if certs else None,
            tls=Tls(str(certs.server), str(certs.server_key), str(certs.ca)) if certs else None,
        )

    def _exchange(self, address: str) -> Watched:
        return Watched(
            _access(address, self._certs), RUN, torch.device("cpu"), join_window=WINDOW, shared_memory=self._shared
        )


class Watched(CoordinatedExchange):
    """Remembers, for the arena's own check, how payloads travelled before the exchange was closed."""

    spent = False
    _shared_seen = False

    @property
    def shares_memory(self) -> bool:
        return self._shared_seen

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        self._shared_seen = super().shares_memory
        return super().publish(*args, **kwargs)

    def join(self, hello: Any) -> Any:
        self.spent = True
        ticket = super().join(hello)
        self.spent = False
        self._shared_seen = super().shares_memory
        return ticket


@contextmanager
def served(settings: ServiceSettings) -> Iterator[str]:
    """The address of a coordinator that runs in a thread as long as the context lasts."""
    loop = asyncio.new_event_loop()
    address: list[str] = []
    failed: list[BaseException] = []
    up, down = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with listen(settings) as listening:
            address.append(listening.address)
            up.set()
            await down.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as exc:  # handed to the test, which raises it
            failed.append(exc)
        finally:
            up.set()

    thread = threading.Thread(target=work, name="coordinator")
    thread.start()
    try:
        assert up.wait(WINDOW)
        if failed:
            raise failed[0]
        yield address[0]
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join(WINDOW)
        loop.close()
    if failed:
        raise failed[0]


def _access(address: str, certs: Certificates | None) -> Access:
    if certs is None:
        return Access(address)
    return Access(address, TOKEN, str(certs.ca), str(certs.peer), str(certs.peer_key))
