"""Writer of the README sections that are made of saved results: `uv run python -m tests.benchmarks.readme`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import RESULTS, Table

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Section:
    """One generated part of a README.

    Attributes:
        readme: the file that it stands in.
        name: of the section, in the marks around it.
        files: saved results that it is made of.
    """

    readme: Path
    name: str
    files: tuple[Path, ...]

    def written(self) -> str:
        """The whole README, with this section as it should be."""
        content = "\n\n".join(_results(path) for path in self.files)
        return between_marks(self.readme.read_text(), self.name, "tests/benchmarks/readme.py", content)


SECTIONS = (
    Section(TESTS / "benchmarks" / "README.md", "performance", tuple(sorted(RESULTS.glob("*.json")))),
    Section(TESTS / "faults" / "README.md", "Byzantine members", (TESTS / "faults" / "results" / "byzantine.json",)),
)


def between_marks(text: str, name: str, writer: str, content: str) -> str:
    """A document with the content between the two marks of a section.

    Args:
        text: Markdown; holds `<!-- NAME: made by WRITER -->` and `<!-- end of NAME -->`, each once.
        name: of the section.
        writer: the file that makes it.
        content: Markdown.
    """
    begin, end = f"<!-- {name}: made by {writer} -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def write(sections: Iterable[Section]) -> None:
    """Bring the READMEs up to date."""
    for section in sections:
        section.readme.write_text(section.written())


def _results(path: Path) -> str:
    results = json.loads(path.read_text())
    machine = results["machine"]
    where = f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, torch {machine['torch']}"
    tables = [Table(**table).markdown() for table in results["tables"]]
    return "\n\n".join([f"`{results['command']}` ({where}, {results['date']})", *tables])


if __name__ == "__main__":
    write(SECTIONS)
