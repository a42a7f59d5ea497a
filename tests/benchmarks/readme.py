"""Makes the README's performance section of the saved results: `uv run python -m tests.benchmarks.readme`."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.measure import RESULTS, Table, load

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- performance: made by tests/benchmarks/readme.py -->", "<!-- end of performance -->"


def section() -> str:
    """The section, in Markdown."""
    return "\n\n".join(_benchmark(path.stem) for path in sorted(RESULTS.glob("*.json")))


def written(text: str) -> str:
    """A README with the section as it should be."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{rest.split(END)[1]}"


def _benchmark(name: str) -> str:
    found = load(name)
    it = found["machine"]
    where = f"{it['gpu'] or it['processor']}, {it['cores']} cores, torch {it['torch']}, {found['date']}"
    tables = [Table(**table).markdown() for table in found["tables"]]
    return "\n\n".join([f"`{found['command']}` ({where})", *tables])


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
