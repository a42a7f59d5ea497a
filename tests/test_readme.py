"""What the README promises is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.benchmarks.readme import written
from tests.reference import lines

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_configuration_reference_is_the_schema() -> None:
    """Made by `python -m tests.reference`: a changed field shows up here."""
    for line in lines():
        assert line in README, f"run `uv run python -m tests.reference` and put its table into README.md: {line}"


def test_every_file_that_the_readme_names_exists() -> None:
    """Paths in code marks, wherever they stand."""
    paths = re.findall(r"`((?:deploy|peers|coordinator|protos|tests)/[\w./-]+)`", README)
    assert len(paths) > 20
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_the_file_map_is_complete() -> None:
    """Every module of the packages has its line in the file map."""
    for folder in ("peers", "coordinator", "protos"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name not in ("__init__.py", "__main__.py") and "_pb2" not in path.name:
                assert f"`{path.relative_to(ROOT)}`" in README, f"{path.relative_to(ROOT)} is not in the file map"


def test_the_performance_section_is_made_of_the_results() -> None:
    """By `python -m tests.benchmarks.readme`: figures that were measured again show up here."""
    assert written(README) == README, "run `uv run python -m tests.benchmarks.readme`"
