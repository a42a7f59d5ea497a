"""Recipes come with the package: listed, written, launched by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import cli, recipes
from peers.common.errors import ConfigError

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_every_file_of_deploy_has_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    """The list shows all of them, none hidden by another of the same name."""
    names = {path.stem for suffix in ("yaml", "sbatch") for path in DEPLOY.rglob(f"*.{suffix}")}
    files = [path for suffix in ("yaml", "sbatch") for path in DEPLOY.rglob(f"*.{suffix}")]
    assert len(names) == len(files)
    assert cli.main(["init", "--list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == names


def test_init_writes_a_recipe_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that exists is kept; an unknown name is refused."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init"]) == 0
    assert Path("local.yaml").read_bytes() == (DEPLOY / "local.yaml").read_bytes()
    Path("local.yaml").write_text("mine")
    assert cli.main(["init", "local"]) == ConfigError.exit_code
    assert Path("local.yaml").read_text() == "mine"
    assert cli.main(["init", "nothing"]) == ConfigError.exit_code
    assert "init --list" in capsys.readouterr().err


def test_a_name_that_is_no_file_is_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name comes first; anything else stays what it is."""
    monkeypatch.chdir(tmp_path)
    assert Path(recipes.find("local")).read_bytes() == (DEPLOY / "local.yaml").read_bytes()
    assert recipes.find("other.yaml") == "other.yaml"
    Path("local").write_text("mine")
    assert recipes.find("local") == "local"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing, and how to get it."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("scipy", "jinja2") else name)
    assert cli.main(["experiment", "digits"]) == ConfigError.exit_code
    assert 'missing: jinja2, scipy; pip install "peer-consensus[experiment]"' in capsys.readouterr().err


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed without a command."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("coordinator 0.")
