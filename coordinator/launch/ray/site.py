"""Site of a Ray cluster: workers are actors in a placement group, coordinator and store are on the head node.

The head node is the one that a Ray cluster cannot lose anyway: coordinator and store there add nothing that may fail.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from coordinator.launch.base import Meeting, Member, ProcessExit, Service
from coordinator.launch.plan import Plan, Process, ray_gpus
from coordinator.launch.processes import CoordinatorChild, stderr_of
from coordinator.launch.ray import actors as ray_actors
from coordinator.launch.ray.mirror import Mirror
from peers.common.errors import ExchangeError
from peers.config.loading import plain

HEAD = {"node:__internal_head__": 0.001}
"""A resource that the head node alone has."""
ANSWER = 30.0
"""Seconds that an actor on the head node has to answer."""


class ActorMember(Member):
    """A worker as an actor.

    Args:
        actor: its handle.
        run: the call that ends when the worker does.
        log: its standard error, here.
        mirror: brings its log here, where its node does not share the folder.
    """

    def __init__(self, actor: Any, run: Any, log: Path, mirror: Mirror) -> None:
        self._actor, self._run, self._log, self._mirror = actor, run, log, mirror
        self._location = actor.location.remote(str(mirror.marker))
        self._placed = False

    @property
    def log(self) -> Path:
        """See `Member.log`."""
        return self._log

    def waits(self) -> bool:
        """See `Member.waits`: it has not got its place in the cluster yet, or is being started there."""
        if not self._placed and _ready(self._location):
            self._placed = True
            with suppress(RayError):  # it ended at once: `ended` says so
                self._mirror.follow(ray.get(self._location))
        return not self._placed

    def ended(self) -> ProcessExit | None:
        """See `Member.ended`; of an actor that is gone nobody knows the exit code."""
        self.waits()
        if not _ready(self._run):
            return None
        try:
            return ProcessExit(ray.get(self._run))
        except RayActorError as exc:
            return ProcessExit(None, _brief(exc))
        except RayError as exc:
            return ProcessExit(1, _brief(exc))
        finally:
            self._mirror.fetch()

    def stop(self) -> None:
        """See `Member.stop`."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """See `Member.kill`."""
        ray.kill(self._actor)


class ActorService(ActorMember, Service):
    """A coordinator as an actor."""

    def address(self) -> str | None:
        """See `Service.address`."""
        try:
            address: str | None = ray.get(self._actor.address.remote(), timeout=1.0)
        except (GetTimeoutError, RayError):
            return None  # it is being started; or it ended, and `ended` says so
        return address

    def end_run(self, reason: str) -> None:
        """See `Service.end_run`."""
        try:
            ray.get(self._actor.end_run.remote(reason), timeout=ANSWER)
        except (GetTimeoutError, RayError) as exc:
            raise ExchangeError(_brief(exc)) from exc


class ClusterSite:
    """A `Site` of actors.

    Args:
        plan: of the run.
        group: placement group with a bundle for each worker.
        mirror: of the run's folder.
    """

    def __init__(self, plan: Plan, group: Any, mirror: Mirror) -> None:
        self._plan, self._group, self._mirror = plan, group, mirror
        self._store: Any = None

    def serve(self, process: Process, bind: str | None) -> Service:
        """See `Site.serve`."""
        if self._plan.config.launcher.ray.coordinator == "launcher":
            return CoordinatorChild(self._plan, process, bind)
        actor_class = ray.remote(ray_actors.CoordinatorActor).options(num_cpus=0, resources=HEAD)
        actor: Any = actor_class.remote(plain(self._plan.config), self._environment({}), process.log)
        return ActorService(actor, actor.run.remote(bind), self._plan.folder.path / process.log, self._mirror)

    def work(self, process: Process, meeting: Meeting) -> Member:
        """See `Site.work`."""
        config, log = self._plan.config, stderr_of(self._plan, process)
        bundle = self._plan.processes.index(process)
        actor_class = ray.remote(ray_actors.WorkerActor).options(
            num_cpus=config.launcher.ray.cpus,
            num_gpus=ray_gpus(config),
            max_concurrency=4,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, bundle),
        )
        name = str(log.relative_to(self._plan.folder.path))
        actor: Any = actor_class.remote(plain(config), self._environment(meeting.environment()), name)
        first = process.peers[0] if meeting.coordinator is not None else None
        return ActorMember(actor, actor.run.remote(meeting.coordinator, first), log, self._mirror)

    def meet(self) -> tuple[str, int]:
        """See `Site.meet`."""
        if self._store is not None:
            ray.kill(self._store)
        self._store = ray.remote(ray_actors.StoreActor).options(num_cpus=0, resources=HEAD).remote()
        try:
            location: ray_actors.ActorLocation = ray.get(
                self._store.location.remote(str(self._mirror.marker)), timeout=ANSWER
            )
            return location.ip, ray.get(self._store.open.remote(location.ip), timeout=ANSWER)
        except (GetTimeoutError, RayError) as exc:
            raise ExchangeError(f"the store of the group does not answer on Ray's head node: {_brief(exc)}") from exc

    def look(self) -> None:
        """See `Site.look`."""
        self._mirror.look()

    def close(self) -> None:
        """Leave no actor behind, once all that the run wrote has come here."""
        self._mirror.close()
        if self._store is not None:
            ray.kill(self._store)
        ray.util.remove_placement_group(self._group)

    def _environment(self, meeting: dict[str, str]) -> dict[str, str]:
        return {**{name: os.environ[name] for name in self._plan.environment}, **meeting}


def _ready(reference: Any) -> bool:
    done, _ = ray.wait([reference], timeout=0)
    return bool(done)


def _brief(exc: Exception) -> str:
    """The sentence of Ray's text that says what happened; its actors' ids and log hints are left out."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
