"""Fuzz one part of the project, led by its coverage.

    uv run python -m tests.fuzz TARGET --seconds N [--corpus DIR]

Starts from the inputs in tests/fuzz/corpus/TARGET, and writes what it finds to the folder of --corpus, where that is
given. The last line tells executions, executions a second, coverage, and the largest memory. On a crash, a hang or too
much memory the exit code is 1, and the input is kept: the path is told, and `--input PATH` runs it alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.runner import Found, fuzz, merge
from tests.fuzz.targets import TARGETS


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0 is until --runs")
    parser.add_argument("--runs", type=int, default=-1, help="executions at most")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0 draws one")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what was found between calls")
    parser.add_argument("--crashes", type=Path, default=Path(), help="folder for inputs that crash")
    parser.add_argument("--input", type=Path, help="run this input alone")
    parser.add_argument("--merge", type=Path, help="fold the inputs of this folder into the tree's corpus, the least")
    given = parser.parse_args()
    if given.input is not None:
        TARGETS[given.target].load()(given.input.read_bytes())
        return 0
    if given.merge is not None:
        sys.stdout.write(f"{merge(given.target, given.merge)} inputs in the tree\n")
        return 0
    with tempfile.TemporaryDirectory() as aside:
        found = fuzz(
            given.target,
            given.corpus or Path(aside),
            given.crashes,
            seconds=given.seconds,
            runs=given.runs,
            seed=given.seed,
        )
    sys.stdout.write(told(found) + "\n")
    return 1 if found.crash else 0


def told(found: Found) -> str:
    """What was found, for a reader."""
    figures = (
        f"{found.target}: {found.executions} executions, {found.rate:.0f} a second, coverage {found.edges} edges and "
        f"{found.features} features, {found.mib} MiB at most"
    )
    if not found.crash:
        return figures
    return f"{found.output}\n{figures}\nCRASH, exit code {found.code}: the input is {found.kept or 'not kept'}"


if __name__ == "__main__":
    sys.exit(main())
