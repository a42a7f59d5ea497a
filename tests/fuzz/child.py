"""The process that fuzzes: `python -m tests.fuzz.child TARGET FLAGS…`, libFuzzer's own flags and folders."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import signal
import sys

from tests.fuzz.targets import named


def main() -> None:
    """Fuzz until libFuzzer has had enough: it ends the process itself."""
    import atheris  # not where the process is measured that only waits

    target = named(sys.argv[1])
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=list(target.covered)):
        once = target.load()
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # its alarm would end a slow end before all is written
    again = shlex.join([sys.executable, "-m", "tests.fuzz.child", sys.argv[1]])  # libFuzzer merges in more processes
    atheris.Setup([again, *sys.argv[2:]], once)
    atheris.Fuzz()


def apart() -> int:
    """Run `main` in a process of its own, and return its exit code.

    A process that was started by a large one counts that one's memory as its own highest, which libFuzzer limits.
    """
    child = os.fork()
    if not child:
        main()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(apart())
