"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

from tests.commands import Running

Start = Callable[..., Running]

# A busy machine takes its time; how long an example takes is no property of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python keeps no compiled modules, keep them in pytest's cache.

    Otherwise every process that a test starts compiles torch from source, which takes three times as long as all else.
    """
    if sys.dont_write_bytecode:
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


TIERS = {
    "cluster": (
        "coordinator/launch/test_ray_cluster",
        "coordinator/launch/test_slurm_jobs",
        "contracts/test_launchers",
        "deploy/test_slurm_scripts",
        "coordinator/experiment/report/test_browser",
        "faults/test_hosts",
    ),
    "chaos": (
        "faults/test_byzantine",
        "faults/test_elastic_group",
        "faults/test_fixed_group",
        "faults/test_plans",
        "faults/test_soak",
        "faults/test_tree",
        "fuzz/",
        "coordinator/service/test_abuse",
        "coordinator/service/test_lanes.py::test_a_flood_of_messages_waits_in_the_sockets",
        "coordinator/service/test_lanes.py::test_those_who_show_no_key_are_few_and_do_not_stay",
    ),
    "benchmark": ("benchmarks/",),
    "process": (
        "coordinator/experiment/analysis/test_digits_analysis",
        "coordinator/experiment/sweep/test_sweep_command",
        "coordinator/experiment/test_command",
        "coordinator/experiment/test_null",
        "coordinator/launch/test_forked",
        "coordinator/replay/test_elastic_replay",
        "coordinator/replay/test_replay",
        "coordinator/service/test_faults_service",
        "coordinator/service/test_upstream",
        "coordinator/test_bad_input",
        "coordinator/test_cifar10",
        "coordinator/test_commands",
        "coordinator/test_doctor_command",
        "coordinator/test_launch",
        "coordinator/test_relay_commands",
        "peers/data/test_batches.py::test_streamed_and_resident_images_are_equal",
        "peers/method/test_peer.py::test_a_compiled_peer_learns_the_same_and_is_probed_and_saved_as_any_other",
        "peers/worker/test_worker",
    ),
}
"""Which tests are no unit or contract tests, by where they stand; tests/README.md says what each tier needs.

What no tier names is the default one, which `uv run pytest` runs.
"""

FULL = (
    "coordinator/test_cifar10",
    "coordinator/launch/test_ray_cluster.py::test_a_killed_actor_and_a_lost_node_do_not_end_the_run",
    "peers/method/test_peer.py::test_a_compiled_peer_learns_the_same_and_is_probed_and_saved_as_any_other",
    "coordinator/experiment/sweep/test_sweep_command.py::test_asha_stops_a_poor_point_even_after_a_break",
    "coordinator/experiment/sweep/test_sweep_command.py::test_stopped_anywhere_it_ends_with_the_same_bytes",
    "coordinator/experiment/test_command.py::test_a_process_that_dies_takes_one_group_with_it",
    "coordinator/experiment/test_null.py::test_a_single_test_errs_as_often_as_it_says",
    "coordinator/launch/test_forked.py::test_a_launch_outlives_what_it_forks_from",
    "coordinator/launch/test_ray_cluster.py::test_a_fixed_group_goes_back_to_its_checkpoints_when_a_node_is_lost",
    "coordinator/launch/test_ray_cluster.py::test_a_lost_coordinator_comes_back_where_it_was",
    "coordinator/launch/test_ray_cluster.py::test_groups_of_an_experiment_run_on_a_cluster",
    "coordinator/launch/test_slurm_jobs.py::test_a_cancelled_job_leaves_nothing[collective]",
    "coordinator/launch/test_slurm_jobs.py::test_a_job_goes_on_alone_is_followed_again_and_queued_again",
    "coordinator/launch/test_slurm_jobs.py::test_a_job_that_is_preempted_goes_on_when_there_is_room_again",
    "coordinator/replay/test_elastic_replay.py",
    "coordinator/test_launch.py::test_through_a_coordinator_the_run_is_the_same",
    "deploy/test_slurm_scripts.py::test_a_preempted_job_goes_on_when_there_is_room_again",
    "deploy/test_slurm_scripts.py::test_a_run_outlives_a_cancelled_job_and_a_time_limit",
    "peers/worker/test_worker.py::test_torchrun_works_as_it_stands",
)
"""Tests that only .ci/full runs: they take a minute each, and quicker ones hold most of what they do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by path; those that take longest come first, so that no process is left alone with them at the end."""
    for item in items:
        place = item.nodeid.removeprefix("tests/")
        for tier, prefixes in TIERS.items():
            if place.startswith(prefixes):
                item.add_marker(tier)
        if place.startswith(FULL):
            item.add_marker("full")
    order = [
        "tests/test_end_to_end.py",
        "tests/test_readme_commands.py",
        "tests/contracts",
        "tests/faults/test_hosts.py",
        "tests/coordinator",
        "tests/peers",
    ]
    items.sort(key=lambda item: next((n for n, path in enumerate(order) if item.nodeid.startswith(path)), len(order)))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands in a folder of their own below the test's; whatever is left of them is reaped."""
    started: list[Running] = []

    def begin(command: Sequence[str], cwd: Path = tmp_path, *, name: str = "output", **environment: str) -> Running:
        started.append(Running(command, cwd, name=name, **environment))
        return started[-1]

    yield begin
    for running in started:
        running.reap()
