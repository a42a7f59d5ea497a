"""Runs a fuzzer in a process of its own and reads what it did off its output."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import CORPUS, named

ROOT = Path(__file__).parents[2]
START = 120
"""Seconds for imports, on top of those that are fuzzed."""
MOST = 60
"""Inputs of one target that the tree keeps: those that somebody has named, and of the others the longest, which reach
the most."""
_HASH = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Found:
    """What a fuzzer did.

    Attributes:
        target: its name.
        code: exit code of its process.
        executions: inputs that were run.
        rate: of them a second.
        edges: of the code that were reached.
        features: edges, told apart by how often they were passed.
        mib: largest memory of the process.
        kept: the input that crashed, hung, or took too much memory.
        output: all that the process said.
    """

    target: str
    code: int
    executions: int
    rate: float
    edges: int
    features: int
    mib: int
    kept: Path | None
    output: str

    @property
    def crash(self) -> bool:
        """Whether something is wrong."""
        return self.code != 0 or self.kept is not None


def fuzz(target: str, corpus: Path, crashes: Path, *, seconds: int = 0, runs: int = -1, seed: int = 0) -> Found:
    """Fuzz a target.

    Args:
        target: a name in `TARGETS`.
        corpus: gets the inputs that reach something new.
        crashes: folder that gets an input that crashes.
        seconds: to fuzz; 0 is without end.
        runs: executions at most; -1 is without end.
        seed: of the mutations; 0 draws one.
    """
    it = named(target)
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={it.longest}",
        "-len_control=0",  # long inputs from the start: these targets are slow, and do little with short ones
        f"-timeout={it.seconds}",
        f"-rss_limit_mb={it.mib}",
        f"-artifact_prefix={crashes.resolve()}/{target}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    own = [CORPUS / target] if (CORPUS / target).is_dir() else []
    before, start = set(crashes.glob(f"{target}-*")), time.monotonic()
    code, said = _child(target, flags, [corpus, *own], seconds + START if seconds else None)
    new = sorted(set(crashes.glob(f"{target}-*")) - before)
    return _read(target, code, said, new[0] if new else None, time.monotonic() - start)


def merge(target: str, found: Path) -> int:
    """Replace a target's corpus in the tree by few inputs, of it and of a folder, that reach as much.

    Returns:
        how many these are.
    """
    own = CORPUS / target
    with tempfile.TemporaryDirectory() as name:
        code, said = _child(
            target, ["-set_cover_merge=1", f"-max_len={named(target).longest}"], [Path(name), own, found], None
        )
        if code:
            raise RuntimeError(said)
        for path in own.iterdir():
            if _HASH.fullmatch(path.name):
                path.unlink()
        for path in sorted(Path(name).iterdir(), key=lambda path: -path.stat().st_size)[
            : MOST - len(list(own.iterdir()))
        ]:
            shutil.copy(path, own)
    return len(list(own.iterdir()))


def _child(target: str, flags: list[str], folders: list[Path], limit: float | None) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.fuzz.child", target, *flags, *(str(folder.resolve()) for folder in folders)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=ROOT, text=True, errors="replace", start_new_session=True, **pipes)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


def _read(target: str, code: int, said: str, kept: Path | None, seconds: float) -> Found:
    def last(pattern: str) -> int:
        found = re.findall(pattern, said)
        return int(found[-1]) if found else 0

    executions, alone = last(r"stat::number_of_executed_units:\s*(\d+)"), last(r"Done \d+ runs in (\d+) second")
    return Found(
        target,
        code,
        executions,
        executions / max(1.0, alone or seconds),  # without the start, where the fuzzer came to its end
        last(r"cov: (\d+)"),
        last(r"ft: (\d+)"),
        last(r"stat::peak_rss_mb:\s*(\d+)"),
        kept,
        said,
    )
