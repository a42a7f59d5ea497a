"""Local launcher: workers are processes of this machine, forked from one that has imported torch."""

from __future__ import annotations

from importlib.util import find_spec
from types import TracebackType
from typing import Any

from coordinator.launch import fixed
from coordinator.launch.base import Meeting, Member, Service
from coordinator.launch.forked import Fork, ForkServer
from coordinator.launch.plan import Plan, Process
from coordinator.launch.processes import CoordinatorChild, stderr_of
from peers.config.schema import Config


class LocalSite:
    """A `Site` of forks; the server begins to import when this is made.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._server = ForkServer(modules(plan.config))
        self._store: Any = None

    def __enter__(self) -> LocalSite:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        """End the server, whatever has happened."""
        self._server.close()

    def serve(self, process: Process, bind: str | None) -> Service:
        """See `Site.serve`."""
        return CoordinatorChild(self._plan, process, bind)

    def work(self, process: Process, meeting: Meeting) -> Member:
        """See `Site.work`."""
        if not self._server.lives:
            self._server.close()
            self._server = ForkServer(modules(self._plan.config))
        arguments = (*process.arguments, *meeting.flags())
        return Fork(self._server, arguments, stderr_of(self._plan, process), self._environment(meeting))

    def meet(self) -> tuple[str, int]:
        """See `Site.meet`."""
        self._store, address = fixed.store("127.0.0.1")
        return address

    def look(self) -> None:
        """See `Site.look`."""

    def _environment(self, meeting: Meeting) -> dict[str, str]:
        """All workers are on this host: they share its GPUs and cores."""
        variables = meeting.environment()
        local = {"LOCAL_RANK": "RANK", "LOCAL_WORLD_SIZE": "WORLD_SIZE"}
        return variables | {name: variables[of] for name, of in local.items() if of in variables}


def modules(config: Config) -> tuple[str, ...]:
    """Modules that workers of this configuration import beyond those that all import."""
    networks = {config.network_of(peer).name for peer in range(config.group.peers or 1)}
    needed = {
        "peers.exchange.coordinated": config.exchange.elastic,
        "torch.utils.tensorboard": config.metrics.tensorboard and find_spec("tensorboard") is not None,
        "peers.networks.torchvision_backbones": not networks <= {"mlp", "convnet"},
        "peers.data.torchvision_sets": config.data.name not in ("digits", "synthetic"),
    }
    return tuple(name for name, needs in needed.items() if needs)
