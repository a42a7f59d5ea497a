"""What a worker can run out of: a disk of its own, and memory of its own. Both need root, and are given back."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
FULL = "full"


def why_not() -> str | None:
    """What this machine lacks to have disks and memory run out; None where nothing is missing."""
    if os.geteuid() != 0:
        return "mounts and memory cgroups need root"
    try:
        with tempfile.TemporaryDirectory() as folder:
            Disk(Path(folder), 64 * 1024).close()
        MemoryLimit("probe", 1 << 30).close()
    except OSError as exc:
        return str(exc)
    return None


class Disk:
    """A small file system of its own at a folder.

    Args:
        folder: is made.
        size: bytes.

    Raises:
        OSError: it cannot be mounted.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self._covered = folder, False
        folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no byte."""
        stuff = self.folder / FULL
        with stuff.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\1" * 4096)
            except OSError:
                return  # that was the last one

    def free(self) -> None:
        """Give the room back."""
        (self.folder / FULL).unlink()

    def read_only(self) -> None:
        """Take no more changes. What is open for writing stays so: a mount with such files cannot become read-only."""
        _mount("--bind", str(self.folder), str(self.folder))
        _mount("-o", "remount,bind,ro", str(self.folder))
        self._covered = True

    def writable(self) -> None:
        """Take changes again."""
        if self._covered:
            self._covered = False
            _unmount(self.folder)

    def close(self) -> None:
        """Keep the files, without the file system."""
        with tempfile.TemporaryDirectory() as kept:
            self.writable()
            shutil.copytree(self.folder, kept, dirs_exist_ok=True, symlinks=True)
            _unmount(self.folder)
            shutil.copytree(kept, self.folder, dirs_exist_ok=True, symlinks=True)


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


def _unmount(folder: Path) -> None:
    _run("umount", "--lazy", str(folder))  # whatever is open there is let go of by its process, in its own time


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class MemoryLimit:
    """A memory cgroup, of version 1 or 2, whichever the machine has.

    Args:
        name: of the group, beside the number of this process.
        size: bytes that its processes may take together.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, name: str, size: int) -> None:
        first = (CGROUPS / "memory").is_dir()
        self._counts = "memory.oom_control" if first else "memory.events"
        self._folder = (CGROUPS / "memory" if first else CGROUPS) / f"peers-{os.getpid()}-{name}"
        self._folder.mkdir()
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first else ("memory.max",)
        for limit in limits:
            file = self._folder / limit
            if file.is_file():
                file.write_text(str(size))
        swap = self._folder / "memory.swap.max"
        if swap.is_file():
            swap.write_text("0")

    def add(self, pid: int) -> None:
        """Take a process in; what it takes from now on is counted."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many processes the kernel has ended here."""
        lines = (line.split() for line in (self._folder / self._counts).read_text().splitlines())
        return sum(int(value) for name, value in lines if name == "oom_kill")

    def close(self) -> None:
        """Remove it; its processes must have ended."""
        self._folder.rmdir()


@contextmanager
def memory_limit(name: str, size: int) -> Iterator[MemoryLimit]:
    """A limit that is removed at the end."""
    limit = MemoryLimit(name, size)
    try:
        yield limit
    finally:
        limit.close()
