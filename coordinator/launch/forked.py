"""Workers forked from a server that has imported torch already; see `peers.worker.forkserver`."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from coordinator.launch.base import PARTING, Member, ProcessExit, WorkerFailedError, failure
from peers.worker.process import PARENT_VARIABLE

IMPORTS = 120.0
"""Seconds that the server has to import what it needs: on a cold, crowded disk it takes that long."""
LOST = "the process that it was forked from is gone"


class ForkServer:
    """The server, and what it has told.

    Args:
        modules: to import besides those that every worker needs.
    """

    program = "peers.worker.forkserver"
    """The module that is the server."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="peer-consensus-forkserver-", suffix=".stderr")
        os.close(descriptor)
        self._log = log = Path(name)
        self._unread = b""
        self._started: deque[int] = deque()
        self._codes: dict[int, int] = {}
        with log.open("ab") as file:
            self._popen = subprocess.Popen(  # noqa: S603  # the project's own program
                (sys.executable, "-m", self.program, *modules),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )

        assert self._popen.stdin is not None  # noqa: S101  # a pipe, as asked for
        assert self._popen.stdout is not None  # noqa: S101  # another
        self._requests, self._answers = self._popen.stdin, self._popen.stdout

    @property
    def lives(self) -> bool:
        """Whether it can still fork."""
        return self._popen.poll() is None

    def fork(self, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path) -> int:
        """Start a worker; its process id.

        Raises:
            WorkerFailedError: the server has ended, or does not answer.
        """
        request = {"arguments": arguments, "environment": dict(environment), "log": str(log)}
        deadline = time.monotonic() + IMPORTS
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            while not self._started:
                self._hear(max(0.0, deadline - time.monotonic()))
        except (BrokenPipeError, EOFError, TimeoutError) as exc:
            ended = ProcessExit(self._popen.wait(PARTING) if not isinstance(exc, TimeoutError) else None, str(exc))
            text = failure("the process that workers are forked from", ended, self._log)
            raise WorkerFailedError(text, 1) from exc
        return self._started.popleft()

    def code(self, worker: int) -> int | None:
        """Exit code of a worker, -n for signal n; None while it is not known."""
        try:
            while worker not in self._codes and self._readable(0.0):
                self._hear(0.0)
        except EOFError:
            pass  # the server is gone: what it told before stands
        return self._codes.get(worker)

    def close(self) -> None:
        """End the server; whatever it forked is told to end with it."""
        self._requests.close()
        self._answers.close()
        try:
            self._popen.wait(PARTING)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._log.unlink(missing_ok=True)

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._answers], [], [], seconds)[0])

    def _hear(self, seconds: float) -> None:
        """Take what it says.

        Raises:
            EOFError: it has ended.
            TimeoutError: it says nothing.
        """
        if not self._readable(seconds):
            raise TimeoutError(f"it did not answer within {IMPORTS:g} s")
        read = os.read(self._answers.fileno(), 65536)
        if not read:
            raise EOFError("its output ended")
        *lines, self._unread = (self._unread + read).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "started" in said:
                self._started.append(said["started"])
            elif "ended" in said:
                self._codes[said["ended"]] = said["code"]


class Fork(Member):
    """A worker that was forked.

    Its process descriptor is held: signals reach it or nobody, never a process that has its number later.

    Args:
        server: that forks it.
        arguments: of the worker's command line.
        log: gets its output, at the end.
        environment: variables on top of this process's.
    """

    def __init__(
        self, server: ForkServer, arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]
    ) -> None:
        self._server, self._log = server, log
        self.pid = server.fork(arguments, environment, log)
        try:
            self._descriptor: int | None = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._descriptor = None  # so short was its life

    @property
    def log(self) -> Path:
        """See `Member.log`."""
        return self._log

    def waits(self) -> bool:
        """See `Member.waits`."""
        return False

    def ended(self) -> ProcessExit | None:
        """See `Member.ended`; nobody knows the code of one that outlived its server."""
        code = self._server.code(self.pid)
        if code is not None:
            self._release()
            return ProcessExit(code)
        if self._server.lives or not self._gone(0.0):
            return None
        return ProcessExit(None, LOST)

    def stop(self) -> None:
        """See `Member.stop`; one that is stopped goes on, or it would not hear of it."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """See `Member.kill`."""
        if self.ended() is None:
            self._signal(signal.SIGKILL)
            self._gone(PARTING)
        self._release()

    def _signal(self, number: signal.Signals) -> None:
        if self._descriptor is not None:
            try:
                signal.pidfd_send_signal(self._descriptor, number)
            except ProcessLookupError:
                return  # it has ended, which is what a signal is for

    def _gone(self, seconds: float) -> bool:
        """Whether the process has ended, or does so in time."""
        return self._descriptor is None or bool(select.select([self._descriptor], [], [], seconds)[0])

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
