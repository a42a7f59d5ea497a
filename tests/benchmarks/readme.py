"""Makes the README's sections of saved results: `uv run python -m tests.benchmarks.readme`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.measure import RESULTS, Table

README = Path(__file__).parents[2] / "README.md"
SECTIONS = {
    "performance": tuple(sorted(RESULTS.glob("*.json"))),
    "Byzantine members": (Path(__file__).parents[1] / "faults" / "results" / "byzantine.json",),
}
"""The files that each section is made of, by the name in its marks."""


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a section."""
    return f"<!-- {name}: made by tests/benchmarks/readme.py -->", f"<!-- end of {name} -->"


def section(files: Iterable[Path]) -> str:
    """A section, in Markdown."""
    return "\n\n".join(_results(path) for path in files)


def written(text: str) -> str:
    """A README with the sections as they should be."""
    for name, files in SECTIONS.items():
        begin, end = marks(name)
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{section(files)}\n\n{end}{rest.split(end)[1]}"
    return text


def _results(path: Path) -> str:
    found = json.loads(path.read_text())
    it = found["machine"]
    where = f"{it['gpu'] or it['processor']}, {it['cores']} cores, torch {it['torch']}, {found['date']}"
    tables = [Table(**table).markdown() for table in found["tables"]]
    return "\n\n".join([f"`{found['command']}` ({where})", *tables])


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
