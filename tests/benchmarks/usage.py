"""What a process has used so far: processor time and memory."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from pathlib import Path


def processor_time(usage: int = resource.RUSAGE_SELF) -> float:
    """Seconds that this process, or this thread, has used so far."""
    used = resource.getrusage(usage)
    return used.ru_utime + used.ru_stime


def processor_time_of(pid: int) -> float:
    """Seconds that another process has used so far, all its threads: from its clock, since /proc counts in 10 ms.

    Raises:
        ProcessLookupError: there is no such process.
    """
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error), f"process {pid}")
    return time.clock_gettime(clock.value)


def peak(pid: int | str = "self") -> int:
    """Largest resident memory of a process so far, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel does not tell the largest resident memory of process {pid}")
