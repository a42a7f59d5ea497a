"""Actors of a Ray cluster, as plain classes: workers, coordinator, store, reader of the run's folder.

`coordinator.launch.ray.site` starts them. They run on any node, with this project shipped to it, and know the launcher
only by the calls below. All state that must outlast them is in the run's folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.launch.fixed import store
from peers.common.errors import PeersError
from peers.config.loading import parse
from peers.runs.run_folder import RunFolder

MIRRORED = ("metrics.jsonl", "summary.json", "logs/*")
"""What of a run's folder the launcher needs to see, where the node does not share it."""


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor is.

    Attributes:
        node: Ray's name of the node.
        ip: its address.
        shares: whether the run's folder there is the launcher's own.
    """

    node: str
    ip: str
    shares: bool


class LocatedActor:
    """An actor that reports its node."""

    def location(self, marker: str) -> ActorLocation:
        """Where it is.

        Args:
            marker: path of a file that the launcher has written into the run's folder.
        """
        import ray

        return ActorLocation(ray.get_runtime_context().get_node_id(), address_of_node(), Path(marker).is_file())


class ProcessActor(LocatedActor):
    """An actor that stands for one process of a plan.

    Args:
        tree: the configuration, settled, as plain values.
        environment: variables on top of the node's.
        log: path of the file that gets what it logs, below the run's folder.
    """

    def __init__(self, tree: dict[str, Any], environment: Mapping[str, str], log: str) -> None:
        os.environ.update(environment)
        self._config = parse(tree)
        self._folder = RunFolder.of(self._config)
        self._log = self._folder.path / log

    def _enter(self) -> None:
        """Make the run's folder, which this node may not share with the launcher, and log there."""
        from peers.worker.process import log_to_file

        self._folder.enter(self._config)
        log_to_file(self._log)


class WorkerActor(ProcessActor):
    """One worker; with two threads, so that it can be told to stop while it runs."""

    def __init__(self, tree: dict[str, Any], environment: Mapping[str, str], log: str) -> None:
        super().__init__(tree, environment, log)
        from peers.worker.process import StopSignal

        self._stop = StopSignal()

    def run(self, coordinator: str | None, first: int | None) -> int:
        """Work until the run has ended; returns the exit code that the process would have.

        Args:
            coordinator: address of the group's; None for a fixed group, which meets where the environment says.
            first: the first of the peers that it hosts, where a coordinator is asked for it.
        """
        from peers.config.loading import updated
        from peers.worker.placement import Placement
        from peers.worker.process import set_up_logging
        from peers.worker.worker import work

        place = Placement.of()
        set_up_logging(place)
        try:
            self._enter()
            config = self._config
            if coordinator is not None:
                config = updated(config, exchange={"address": coordinator})
            return work(config, place, "resume", self._stop, first=first)
        except Exception as exc:
            return _exit_code_of(exc, logging.getLogger("peers.worker"))

    def stop(self) -> None:
        """Finish the round, save and end."""
        self._stop.request()


class CoordinatorActor(ProcessActor):
    """The service that closes rounds, in the event loop of its actor."""

    def __init__(self, tree: dict[str, Any], environment: Mapping[str, str], log: str) -> None:
        super().__init__(tree, environment, log)
        self._asked = asyncio.Event()
        self._address: str | None = None

    async def run(self, bind: str | None) -> int:
        """Serve until the run has ended; returns the exit code that the process would have.

        Args:
            bind: HOST:PORT instead of the configuration's, for one that is started again where it was.
        """
        from coordinator.service import logs
        from coordinator.service.from_config import settings_of
        from coordinator.service.server import attend
        from coordinator.service.store import forget
        from peers.common.hosts import WILDCARDS, host_in
        from peers.config.loading import updated

        logs.set_up("INFO", as_json=False)
        try:
            self._enter()
            config = self._config
            chosen = (config.coordinator.advertise, config.exchange.interface)
            if host_in(config.coordinator.bind) in WILDCARDS and chosen == (None, None):
                # The address by which the cluster's nodes reach one another, as they have found out already.
                config = updated(config, coordinator={"advertise": address_of_node()})
            if bind is None:
                forget(self._folder.coordinator_state(config))
            return await attend(settings_of(config, bind=bind), self._asked, self._listens)
        except Exception as exc:
            return _exit_code_of(exc, logging.getLogger(__name__))

    async def address(self) -> str | None:
        """HOST:PORT; None until it listens."""
        return self._address

    async def end_run(self, reason: str) -> None:
        """End the run, for all in the same round."""
        from coordinator import status as console
        from peers.config.credentials import access

        await asyncio.to_thread(console.stop, access(self._config, self._address or ""), reason)

    async def stop(self) -> None:
        """End the service, not the run."""
        self._asked.set()

    def _listens(self, address: str) -> None:
        self._address = address


class StoreActor(LocatedActor):
    """The store in which a fixed group meets: not in a worker, so that any of them may die."""

    def __init__(self) -> None:
        self._store: Any = None

    def open(self, host: str) -> int:
        """Listen; returns the port."""
        self._store, (_, port) = store(host)
        return port


class RunFolderActor(LocatedActor):
    """Reads a run's folder on a node whose disk is not the launcher's.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()

    def news(self, known: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int, bytes]]:
        """What is new since the last call.

        Args:
            known: {path below the folder: (inode, bytes read)} of the last call.

        Returns:
            {path: (inode, offset, bytes from there on)}; a file that was replaced begins at 0 again.
        """
        news = {}
        for path in (path for pattern in MIRRORED for path in self._folder.glob(pattern) if path.is_file()):
            name = str(path.relative_to(self._folder))
            with path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                before, offset = known.get(name, (inode, 0))
                offset = offset if before == inode else 0
                file.seek(offset)
                data = file.read()
            if name.endswith(".jsonl"):
                data = data[: data.rfind(b"\n") + 1]
            if data or before != inode:
                news[name] = inode, offset, data
        return news


def _exit_code_of(exc: Exception, logger: logging.Logger) -> int:
    """Log what ended an actor; returns the exit code that its process would have."""
    if isinstance(exc, PeersError):
        logger.error("%s", exc)
        return exc.exit_code
    logger.error("an error that nobody foresaw", exc_info=exc)
    return 1


def address_of_node() -> str:
    """The address by which the cluster's nodes reach the one that an actor is on."""
    import ray.util

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
