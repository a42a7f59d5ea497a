"""Choice of the policy that watches a group: elastic with a coordinator, fixed without one."""

from __future__ import annotations

from coordinator.launch import elastic, fixed
from coordinator.launch.base import LaunchResult, Reports, Site
from coordinator.launch.plan import Plan


def supervise(plan: Plan, site: Site, reports: Reports) -> LaunchResult:
    """Start the processes of a plan, watch them, restart what fails; see `coordinator.launch.base`.

    Args:
        plan: the run's folder must have been prepared.
        site: where the processes run.
        reports: told of each restart.

    Raises:
        WorkerFailedError: a process failed in a way that a restart does not mend, or once too often.
    """
    policy = fixed.supervise if plan.coordinator is None else elastic.supervise
    return policy(plan, site, reports)
