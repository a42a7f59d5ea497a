"""Workers come out of a process that has imported torch, each as if it had been started by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coordinator.launch.base import ProcessExit, WorkerFailedError
from coordinator.launch.forked import LOST, Fork, ForkServer
from coordinator.launch.local import modules
from peers.common.errors import ConfigError
from peers.config.schema import Config
from peers.worker.forkserver import MODULES
from tests.commands import LAUNCH, TINY, rounds_recorded, settings, summary
from tests.conftest import Start
from tests.coordinator.service.processes import until

LONG = ("run.name=run", "run.rounds=100000", "group.peers=2", "probe.every=0")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A server that lives."""
    made = ForkServer(())
    yield made
    made.close()


def worker(server: ForkServer, folder: Path, *sets: str, **environment: str) -> Fork:
    """A worker that hosts a whole group."""
    where = settings(*TINY, *LONG, f"run.out={folder / 'runs'}", *sets)
    return Fork(server, tuple(where), folder / "worker.stderr", environment)


def ended(fork: Fork) -> ProcessExit:
    """How it ended, once it has."""
    return until(fork.ended, "the worker's end")


def test_a_fork_is_a_worker_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    """Its session, name, variables and log are its own; SIGTERM lets it save itself, its exit code is told."""
    made = worker(server, tmp_path, PEERS_TEST_MARK="here")
    process = psutil.Process(made.pid)
    until(lambda: rounds_recorded(tmp_path / "runs" / "run") > 5, "rounds")
    assert "python -m peers.worker --set" in " ".join(process.cmdline())
    assert os.getsid(made.pid) == made.pid
    assert made.ended() is None
    assert {os.path.realpath(f"/proc/{made.pid}/fd/{number}") for number in (1, 2)} == {str(made.log)}
    made.stop()
    assert ended(made) == ProcessExit(0)
    assert "stopped after round" in made.log.read_text()
    assert list((tmp_path / "runs" / "run" / "checkpoints").glob("peer-*/latest"))


def test_exit_codes_and_signals_are_told_apart(server: ForkServer, tmp_path: Path) -> None:
    """A wrong configuration, SIGKILL from here and from elsewhere; none of them harms the server."""
    assert ended(worker(server, tmp_path, "group.peers=1")) == ProcessExit(ConfigError.exit_code)
    first, second = worker(server, tmp_path, "run.name=a"), worker(server, tmp_path, "run.name=b")
    first.kill()
    os.kill(second.pid, signal.SIGKILL)
    assert (ended(first), ended(second)) == (ProcessExit(-9), ProcessExit(-9))
    first.stop()  # too late, and reaches nobody
    assert server.lives


LAST = """
import atexit, threading, time
atexit.register(lambda: print("at exit"))
def late():
    threading.main_thread().join()
    print("a thread")
import peers.worker.worker
inner = peers.worker.worker.main
def main(arguments):
    threading.Thread(target=late).start()
    return inner(arguments)
peers.worker.worker.main = main
"""
"""A library that has something to do when a process ends."""


def test_a_fork_ends_when_its_threads_and_libraries_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is not taken apart, but what runs still ends, what is registered is done, and all is written."""
    (tmp_path / "last_words.py").write_text(LAST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ForkServer(("last_words",))
    made = worker(server, tmp_path, "group.peers=1")
    assert ended(made) == ProcessExit(ConfigError.exit_code)
    server.close()
    assert made.log.read_text().splitlines()[-2:] == ["a thread", "at exit"]


def test_without_the_server_its_workers_save_themselves_and_end(tmp_path: Path) -> None:
    """The server is killed: nobody knows the exit codes, and no worker stays behind."""
    others = psutil.Process().children()
    server = ForkServer(())
    (parent,) = [process for process in psutil.Process().children() if process not in others]
    made = worker(server, tmp_path)
    folder = tmp_path / "runs" / "run"
    until(lambda: rounds_recorded(folder) > 5, "rounds")
    parent.kill()
    assert ended(made) == ProcessExit(None, LOST)
    assert list((folder / "checkpoints").glob("peer-*/latest"))
    with pytest.raises(WorkerFailedError, match="killed by signal 9"):
        worker(server, tmp_path)
    server.close()


def test_a_server_that_cannot_import_says_so() -> None:
    """Its last words reach the user."""
    server = ForkServer(("peers.no_such_module",))
    with pytest.raises(WorkerFailedError, match=r"No module named 'peers\.no_such_module'"):
        Fork(server, (), Path(os.devnull), {})
    server.close()


def test_a_launch_outlives_what_it_forks_from(start: Start, tmp_path: Path) -> None:
    """The server of a launch is killed: the group goes on from its checkpoints, forked from another."""
    folder = tmp_path / "runs" / "run"
    (tmp_path / "empty.yaml").write_text("")
    flags = settings(*TINY, "group.peers=2", "run.rounds=400", "checkpoint.every=20", "probe.every=0", "run.name=run")
    running = start((*LAUNCH, "empty.yaml", *flags))
    running.until(lambda: rounds_recorded(folder) > 30)
    below = psutil.Process(running.process.pid).children()
    (server,) = [process for process in below if "peers.worker.forkserver" in process.cmdline()]
    server.kill()
    code, output = running.wait()
    assert code == 0, output
    assert LOST in output
    assert "restart 1 of" in output
    assert summary(folder)["rounds"] == 400


def test_what_the_server_imports_leaves_cuda_to_its_forks() -> None:
    """Asking CUDA anything, even how many GPUs there are, would keep every fork from using one."""
    everything = Config.model_validate(
        {"exchange": {"kind": "coordinator"}, "network": {"name": "resnet18"}, "data": {"name": "cifar10"}}
    )
    code = (
        "import importlib, os, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "import torch\n"
        "child = os.fork()\n"
        "if not child: os._exit(torch._C._cuda_isInBadFork())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    names = (*MODULES, *modules(everything))
    assert len(names) == len(MODULES) + 4
    assert subprocess.run([sys.executable, "-c", code, *names], check=False, timeout=60).returncode == 0
