"""Command lines of all READMEs: collect them, and check one without running it."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
READMES = sorted(
    path for path in ROOT.rglob("README.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
PLACEHOLDERS = {"CONFIG": "deploy/local.yaml", "FILE": "deploy/local.yaml"}
"""Words that a reader replaces by something of their own."""

NOT_CHECKED = {
    "uv sync": "what every test runs in is its result",
    "pip install .": "needs a registry, and an environment of its own",
    'pip install ".[experiment]"': "needs a registry, and an environment of its own",
    'pip install ".[tensorboard]"': "needs a registry, and an environment of its own",
    "coordinator --version": "tests/test_readme_commands.py runs it; a parser would end with it",
    "ray start --head --num-cpus=8": "tests/coordinator/launch/test_ray_cluster.py starts such a cluster",
    "ray start --address=head:6379": "tests/coordinator/launch/test_ray_cluster.py adds such a node",
    "sbatch deploy/slurm/peers_torchrun.sbatch": "tests/deploy/test_slurm_scripts.py submits it to a real Slurm",
    "sbatch --nodes=2 --gpus-per-node=8 deploy/slurm/peers_torchrun.sbatch deploy/cifar10.yaml --set data.root=/data": (
        "needs 16 GPUs; tests/deploy/test_slurm_scripts.py submits the script to a real Slurm"
    ),
    "sbatch deploy/slurm/peers_coordinator.sbatch deploy/local.yaml --set run.rounds=200": (
        "tests/deploy/test_slurm_scripts.py submits it to a real Slurm"
    ),
    "(umask 077; openssl rand -hex 32 > token)": "no command of this project",
    "bash .ci/run": "runs the tests that this list belongs to",
    "bash .ci/full": "runs the tests that this list belongs to",
    "uv run python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. protos/consensus.proto": (
        "tests/protos/test_generated.py runs it and compares the files"
    ),
    "uv run python -m tests.benchmarks.readme": "tests/test_readme.py compares what it would write",
}
"""Command lines that are neither parsed nor run, each with its reason."""


def lines(text: str) -> Iterator[str]:
    """Command lines of a document's `sh` blocks, without comments and with continued lines joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
            if command:
                yield command


def all_lines() -> list[str]:
    """Every command line of every README, each once."""
    return list(dict.fromkeys(line for path in READMES for line in lines(path.read_text())))


def words(line: str) -> list[str]:
    """A command's words as the shell would pass them on: without variables before it, and without `uv run`."""
    given = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)]
    while given and re.fullmatch(r"[A-Z_]+=\S*", given[0]):
        given.pop(0)
    return given[2:] if given[:2] == ["uv", "run"] else given


def check(line: str) -> None:
    """Check a command as far as possible without running it.

    Raises:
        LookupError: no check knows such a command.
        SystemExit: its arguments cannot be parsed.
        PeersError: its configuration or its settings are wrong.
    """
    given = words(line)
    for beginning, checker in CHECKS.items():
        if given[: len(beginning)] == list(beginning):
            checker(given[len(beginning) :])
            return
    if given[:2] == ["python", "-m"] and given[2].startswith("tests."):
        _check_module(given[2], given[3:])
        return
    raise LookupError(line)


def _check_coordinator(arguments: Sequence[str]) -> None:
    """Parse; load the configuration; of a launch, make the plan that --dry-run prints."""
    from coordinator import cli
    from coordinator.experiment import matrix
    from coordinator.experiment.sweep import plan as sweeps
    from coordinator.launch.plan import make_plan
    from peers.config import loading

    options = cli._parser().parse_args(arguments)
    command = arguments[0]
    if command == "launch":
        assert make_plan(loading.load(options.config, options.set)).text()
    elif command == "experiment":
        assert matrix.load(options.config, options.set).cells
    elif command == "sweep":
        assert sweeps.load(options.config, options.set).cells
    elif command in ("serve", "doctor") and options.config is not None:
        loading.load(options.config, options.set)


def _check_worker(arguments: Sequence[str]) -> None:
    from peers.config import loading
    from peers.worker import worker

    options = worker._parser().parse_args(arguments)
    loading.load(options.config, options.set)


def _check_torchrun(arguments: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(arguments)
    assert options.module
    assert options.training_script == "peers.worker"
    _check_worker(options.training_script_args)


def _check_pytest(arguments: Sequence[str]) -> None:
    """Markers and paths."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", default="")
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args(arguments)
    text = (ROOT / "pyproject.toml").read_text()
    for marker in set(re.findall(r"\w+", options.m)) - {"and", "or", "not"}:
        assert f'"{marker}: ' in text, f"pyproject.toml has no marker {marker}"
    assert all((ROOT / path).exists() for path in options.paths)


class _ParsedError(Exception):
    """Arguments were accepted; nothing more is to happen."""


def _check_module(name: str, arguments: Sequence[str]) -> None:
    """Let a module's `main` parse its arguments, and stop there."""
    module = importlib.import_module(name if "." in name.removeprefix("tests.") else f"{name}.__main__")
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise _ParsedError

    with (
        mock.patch("sys.argv", [name, *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        pytest.raises(_ParsedError),
    ):
        module.main()


CHECKS: dict[tuple[str, ...], Callable[[Sequence[str]], None]] = {
    ("coordinator",): _check_coordinator,
    ("python", "-m", "peers.worker"): _check_worker,
    ("torchrun",): _check_torchrun,
    ("pytest",): _check_pytest,
}
