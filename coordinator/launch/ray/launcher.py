"""Ray launcher: connects to a cluster or starts one here, reserves room for the group, and runs it as actors."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from coordinator.launch.base import LOOK, Interrupted, LaunchResult, Reports
from coordinator.launch.plan import Plan, ray_gpus
from coordinator.launch.supervise import supervise
from peers.common.errors import ConfigError
from peers.common.hosts import connection_trouble, host_in, split, stays_here
from peers.config.schema import RayConfig

PACKAGES = ("protos", "peers", "coordinator")
STORE_BYTES = 100 * 1024 * 1024
"""Object store of a cluster that is started here: outputs do not travel through it."""
QUICK = 5.0
"""Seconds until the user is told that the cluster is full."""
PATIENCE = 5.0
"""Seconds that a connection to the cluster may take."""
SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working folder and build an environment
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without GPUs keep the variables that they have
    "RAY_USAGE_STATS_ENABLED": "0",  # a cluster that is started here tells nobody
}


def launch(plan: Plan, reports: Reports) -> LaunchResult:
    """Run a plan on a Ray cluster; see `coordinator.launch.base`.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or it has no room for the group.
        WorkerFailedError: a worker failed in a way that a restart does not mend, or once too often.
    """
    ray = library()
    _connect(ray, plan)
    try:
        with Interrupted().installed() as early:
            group = _place(ray, plan, reports, early)
        if early.number is not None:
            return LaunchResult(128 + early.number, 0, early.number)
        from coordinator.launch.ray.mirror import Mirror
        from coordinator.launch.ray.site import ClusterSite

        site = ClusterSite(plan, group, Mirror(plan.folder))
        try:
            return supervise(plan, site, reports)
        finally:
            site.close()
    finally:
        ray.shutdown()


def library() -> ModuleType:
    """Ray, which nothing but this launcher needs.

    Raises:
        ConfigError: it is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as exc:
        raise ConfigError(
            f"launcher.kind = 'ray' needs Ray, which cannot be imported ({exc}): pip install 'ray>=2.50', or use "
            f"launcher.kind = 'local'"
        ) from exc
    return ray


def environment(asked: RayConfig) -> dict[str, Any]:
    """The runtime environment of the run's actors: what is asked for, and this project's packages, always."""
    import coordinator

    root = Path(coordinator.__file__).parents[1]
    modules = [*(str(root / name) for name in PACKAGES), *asked.runtime_env.get("py_modules", [])]
    return {**asked.runtime_env, "py_modules": modules}


def _connect(ray: ModuleType, plan: Plan) -> None:
    asked = plan.config.launcher.ray
    options: dict[str, Any] = {"runtime_env": environment(asked)}
    if asked.address is None:
        # CPUs are Ray's bookkeeping: on a laptop a group may have more workers than there are cores.
        options["num_cpus"] = max(len(os.sched_getaffinity(0)), -int(-asked.cpus * len(plan.processes) // 1))
    connect(ray, asked.address, options)


def connect(ray: ModuleType, address: str | None, options: Mapping[str, Any]) -> None:
    """Connect to a cluster, or start one here.

    Args:
        ray: the library.
        address: `launcher.ray.address`; None starts a small cluster of this machine.
        options: of `ray.init`, on top.

    Raises:
        ConfigError: there is no cluster, or it does not take this connection.
    """
    _check_address(address)
    own = {} if address else {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        # Each worker's log is a file of its run.
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own, **options)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        where = address or "this machine"
        raise ConfigError(
            f"launcher.ray.address = {where!r}: cannot connect: {str(exc).splitlines()[0]}; `ray status` on a node "
            f"tells whether the cluster is up, Python and Ray must be of the same versions there and here, and ray:// "
            f"needs RAY_AUTH_MODE=token in the environment where the cluster asks for Ray's token"
        ) from exc


def _check_address(address: str | None) -> None:
    """Find out at once what Ray would find out in minutes: that nothing listens there."""
    if address is None or address in ("auto", "local"):
        return
    try:
        host, port = split(address.removeprefix("ray://"))
    except ValueError as exc:
        raise ConfigError(f"launcher.ray.address = {exc}, auto, or ray://HOST:10001") from exc
    try:
        with socket.create_connection((host, port), PATIENCE):
            return
    except OSError as exc:
        raise ConfigError(
            f"launcher.ray.address = {address!r}: {connection_trouble(host, port, exc).text}; start the cluster there "
            f"(`ray start --head`), or leave the address out to start one here"
        ) from exc


def _place(ray: ModuleType, plan: Plan, reports: Reports, interrupted: Interrupted) -> Any:
    """A placement group with a bundle for each worker, once the cluster has made room for it."""
    asked, gpus = plan.config.launcher.ray, ray_gpus(plan.config)
    bundle = {name: amount for name, amount in (("CPU", asked.cpus), ("GPU", gpus)) if amount}
    group = ray.util.placement_group([bundle] * len(plan.processes), strategy=asked.strategy)
    ready, began, announced = group.ready(), time.monotonic(), False
    while not ray.wait([ready], timeout=LOOK)[0] and interrupted.number is None:
        if not announced and time.monotonic() > began + QUICK:
            announced = True
            reports.note(f"waiting for the cluster to make room, at most {asked.placement_timeout:g} s")
        if time.monotonic() > began + asked.placement_timeout:
            has = {name: ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
            raise ConfigError(
                f"launcher.ray: the cluster has not made room within {asked.placement_timeout:g} s "
                f"(placement_timeout) for {len(plan.processes)} workers of {asked.cpus:g} CPUs and {gpus:g} GPUs each, "
                f"{asked.strategy}; it has {len(_alive(ray))} nodes with {has['CPU']:g} CPUs and {has['GPU']:g} GPUs, "
                f"not all free: ask for less, add nodes, or use another strategy"
            )
    if interrupted.number is None:
        _check_reach(ray, plan, group)
        placed = set(ray.util.placement_group_table(group)["bundles_to_node_id"].values())
        reports.note(f"{len(plan.processes)} workers on {len(placed)} of the cluster's {len(_alive(ray))} nodes")
    return group


def _check_reach(ray: ModuleType, plan: Plan, group: Any) -> None:
    """Refuse a coordinator that listens on loopback for workers of other hosts."""
    bind, kept = plan.config.coordinator.bind, plan.config.launcher.ray.coordinator
    if plan.coordinator is None or not stays_here(host_in(bind)):
        return
    nodes = _alive(ray)
    placed = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
    ips = {node["NodeManagerAddress"] for node in nodes if node["NodeID"] in placed}
    heads = {node["NodeManagerAddress"] for node in nodes if "node:__internal_head__" in node["Resources"]}
    home = heads if kept == "actor" else {ray.util.get_node_ip_address()}
    if ips - home:
        raise ConfigError(
            f"coordinator.bind = {bind!r}: workers on {', '.join(sorted(ips - home))} cannot reach a coordinator that "
            f"listens on loopback; use 0.0.0.0:0 with security.certs and a token, or with security.insecure = true on "
            f"a network that you trust"
        )


def _alive(ray: ModuleType) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]
