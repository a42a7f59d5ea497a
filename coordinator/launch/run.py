"""`coordinator launch`: checks and prepares a run, starts it, shows its progress and its results."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from coordinator.launch.base import LaunchResult, Reports, restarting
from coordinator.launch.local import LocalSite
from coordinator.launch.plan import Plan
from coordinator.launch.progress import Display, MetricsFollower
from coordinator.launch.supervise import supervise
from peers.common.errors import ExchangeError
from peers.runs import summary
from peers.runs.run_folder import Existing, run_name

Launch = Callable[[Plan, Reports], LaunchResult]


def run_plan(plan: Plan, existing: Existing, console: Console) -> int:
    """Run a plan to its end.

    Args:
        plan: what to start.
        existing: what to do with a run of the same name.
        console: where to show progress and the table.

    Returns:
        exit code: 0 after a table; 128 + n after signal n, with all peers saved.

    Raises:
        PeersError: the configuration or what it stands on is wrong, or a worker failed for good.
    """
    with _launcher(plan) as launch:
        return _run(plan, existing, console, launch)


def _run(plan: Plan, existing: Existing, console: Console, launch: Launch) -> int:
    import torch  # only now: what workers are forked from imports it at the same time

    from peers.worker.preflight import check, saved_rounds

    grounds = check(plan.config, torch.device("cpu"))
    if existing == "resume":
        saved_rounds(plan.config, grounds, range(plan.config.group.peers or 0))
    if not _under_way(plan, existing):
        plan.folder.prepare(plan.config, existing)
        plan.folder.summary.unlink(missing_ok=True)  # so that what is shown at the end is of this launch
    console.print(
        f"run {run_name(plan.config)}: {plan.config.group.peers} peers in {len(plan.processes)} workers, "
        f"{grounds.rounds} rounds; everything goes to {plan.folder.path}",
        soft_wrap=True,
    )

    def on_restart(number: int, text: str) -> None:
        note(restarting(number, text, plan.max_restarts))

    def note(text: str) -> None:
        console.print(text, soft_wrap=True)

    with Display(MetricsFollower(plan.folder.metrics, grounds.rounds), console):
        outcome = launch(plan, Reports(on_restart, note))
    if outcome.note:
        note(outcome.note)
        return outcome.exit_code
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        console.print(f"stopped by {name}; every peer has saved itself; --resume auto continues", soft_wrap=True)
        return outcome.exit_code
    return _show(plan, console)


def _under_way(plan: Plan, existing: Existing) -> bool:
    """Whether the run is already queued or running as a batch job, which is then followed.

    Raises:
        RunFolderError: its job is not over, and the run is to be replaced.
    """
    if plan.config.launcher.kind != "slurm" or existing == "refuse":
        return False
    from coordinator.launch.slurm import launcher as slurm

    if existing == "overwrite":
        slurm.refuse_while_active(plan.folder)
        return False
    return slurm.active_job(plan.folder) is not None


@contextmanager
def _launcher(plan: Plan) -> Iterator[Launch]:
    """The launcher of a plan; the local one starts to import torch at once."""
    kind = plan.config.launcher.kind
    if kind == "ray":
        from coordinator.launch.ray.launcher import launch  # only this launcher needs that library

        yield launch
    elif kind == "slurm":
        from coordinator.launch.slurm import launcher as slurm

        yield slurm.launch
    else:
        with LocalSite(plan) as site:
            yield lambda plan, reports: supervise(plan, site, reports)


def _show(plan: Plan, console: Console) -> int:
    folder = plan.folder
    if not folder.summary.is_file():
        console.print(f"the run ended before its last round; --resume auto continues; logs in {folder.logs}")
        return ExchangeError.exit_code
    result = json.loads(folder.summary.read_bytes())
    console.print(summary.table(result), soft_wrap=True)
    for path, what in (
        (folder.summary, "results"),
        (folder.config, "resolved configuration"),
        (folder.metrics, "metrics; TensorBoard: " + f"tensorboard --logdir {folder.tensorboard}"),
        (folder.path / "checkpoints", "weights of each peer"),
        (folder.logs, "logs"),
    ):
        console.print(f"  {path}  {what}", soft_wrap=True)
    return 0
