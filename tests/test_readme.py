"""What the READMEs promise is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import reference
from tests.benchmarks.readme import SECTIONS, Section
from tests.readme_commands import NOT_CHECKED, READMES, ROOT, all_lines, check

FOLDERS = (
    "protos",
    "peers",
    "coordinator",
    "deploy",
    "deploy/experiments",
    "tests",
    "tests/benchmarks",
    "tests/faults",
)


def name_of(path: Path) -> str:
    """A README as the parametrized tests name it."""
    return str(path.relative_to(ROOT))


def anchors(markdown: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_each_folder_has_its_own() -> None:
    """What concerns one folder stands in that folder's README."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    assert [folder for folder in FOLDERS if ROOT / folder / "README.md" not in READMES] == []


def test_the_configuration_reference_is_the_schema() -> None:
    """Made by `python -m tests.reference`: a changed field shows up here."""
    assert reference.written() == reference.README.read_text(), "run `uv run python -m tests.reference`"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_generated_sections_are_made_of_the_results(section: Section) -> None:
    """By `python -m tests.benchmarks.readme`: figures that were measured again show up here."""
    assert section.written() == section.readme.read_text(), "run `uv run python -m tests.benchmarks.readme`"


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_every_path_in_code_marks_exists(path: Path) -> None:
    """Paths below the project's folders, wherever they stand; `*` matches anything."""
    paths = re.findall(r"`((?:deploy|peers|coordinator|protos|tests|\.ci)/[\w./*-]+)`", path.read_text())
    assert [each for each in paths if not list(ROOT.glob(each))] == []


@pytest.mark.parametrize("path", [*READMES, ROOT / "SECURITY.md"], ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Relative links and pictures: the file is there, and so is the heading."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (
            anchor and anchor not in anchors((file / "README.md" if file.is_dir() else file).read_text())
        ):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("line", all_lines())
def test_every_command_line_can_be_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are parsed, configurations loaded, launches planned; `test_readme_commands` runs some."""
    if line in NOT_CHECKED:
        assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w/]+\.py", NOT_CHECKED[line]))
        return
    monkeypatch.chdir(ROOT)
    check(line)


def test_no_reason_outlives_its_command() -> None:
    """What is not checked stands in a README."""
    assert sorted(NOT_CHECKED.keys() - set(all_lines())) == []
