"""`python -m peers.worker.forkserver`: imports what workers need once, and forks a worker whenever it is asked to.

A fork has torch at once, where a process of its own imports it for seconds; and its memory is shared until written to.
For a launcher, over lines of JSON:

    in    {"arguments": [...], "environment": {...}, "log": PATH}     `python -m peers.worker ARGUMENTS`, output to PATH
    out   {"ready": pid}                                              once, when all is imported
    out   {"started": pid}                                            for each request, in their order
    out   {"ended": pid, "code": 3}                                   for each worker; -n for signal n

The end of its input ends the server, and with it its workers (`peers.worker.process.end_with_parent`); signals do not.

Threads do not survive a fork, and what they held stays locked: here is nothing but imports, never a tensor's
arithmetic, a channel or a GPU.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import sys
from dataclasses import dataclass
from typing import Any

from setproctitle import setproctitle

from peers.worker.process import PARENT_VARIABLE

MAIN = "peers.worker.worker"
MODULES = (MAIN, "torch._dynamo")
"""What every worker imports: `torch._dynamo` is what the first optimizer that is made brings along."""
MODULE = "peers.worker"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
CHUNK = 65536


@dataclass(frozen=True)
class Request:
    """A worker to be.

    Attributes:
        arguments: of its command line.
        environment: variables on top of the server's.
        log: file that gets its output, at the end.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: str

    @classmethod
    def of(cls, line: bytes) -> Request:
        """As it was written."""
        said = json.loads(line)
        return cls(tuple(said["arguments"]), dict(said["environment"]), said["log"])


class Server:
    """Forks on request; see the module.

    Args:
        requests: descriptor of the input.
        answers: descriptor of the output.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._living: set[int] = set()
        self._read = b""
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)

    def serve(self) -> Request | None:
        """Serve until the input ends. Returns None in the server, and in each worker, forked here, its request."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # wakes the selector, which an ignored one would not
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        self._say(ready=os.getpid())
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake:
                        os.read(self._wake, CHUNK)
                        self._reap()
                        continue
                    read = os.read(self._requests, CHUNK)
                    if not read:
                        return None
                    *lines, self._read = (self._read + read).split(b"\n")
                    for line in lines:
                        request = Request.of(line)
                        if self._forked():
                            return request

    def _forked(self) -> bool:
        """Fork; whether this is the worker."""
        worker = os.fork()
        if worker == 0:
            return True
        self._living.add(worker)
        self._say(started=worker)
        return False

    def _reap(self) -> None:
        for worker in list(self._living):
            found, status = os.waitpid(worker, os.WNOHANG)
            if found:
                self._living.discard(worker)
                self._say(ended=worker, code=os.waitstatus_to_exitcode(status))

    def _say(self, **words: int) -> None:
        os.write(self._answers, json.dumps(words).encode() + b"\n")

    def forget(self) -> None:
        """In a worker: give back what was the server's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *STOPPING):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in (self._wake, self._woken, self._answers):
            os.close(descriptor)


def become(request: Request) -> None:
    """Make this process the worker of a request: a session, a log, variables and a name of its own."""
    os.setsid()
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for made, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(made, number)
    os.close(log)
    os.close(nothing)
    os.environ.update(request.environment)
    os.environ[PARENT_VARIABLE] = str(os.getppid())
    sys.argv = [MODULE, *request.arguments]
    setproctitle(" ".join(["python", "-m", *sys.argv]))


class ImmediateExit:
    """Ends this process once its threads have ended and what it has to do at exit is done.

    Not as the interpreter would: that takes apart all that was imported, which costs a fork a copy of every page that
    it shares, and seconds on a machine that is busy. `multiprocessing` ends its forks like this, too.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        """Exit code; None where an exception has decided it."""
        atexit.register(self._end)  # what is registered first happens last

    def _end(self) -> None:
        if self.code is None:
            gc.unfreeze()  # or libraries take what is still there at the end for leaks, and say so
            return
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def main() -> int:
    """Be the server, and in its forks the workers."""
    exit_ = ImmediateExit()
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever an import prints is no answer
    for name in (*MODULES, *sys.argv[1:]):
        importlib.import_module(name)
    gc.freeze()  # so that collections leave these pages shared
    server = Server(0, answers)
    request = server.serve()
    code = 0
    if request is not None:
        server.forget()
        become(request)
        worker: Any = importlib.import_module(MAIN)
        code = worker.main(request.arguments)
    exit_.code = code
    return code


if __name__ == "__main__":
    sys.exit(main())
