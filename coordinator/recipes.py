"""Recipes: the configurations and batch scripts of deploy/, by name."""

from __future__ import annotations

import shutil
from pathlib import Path

from peers.common.errors import ConfigError

_PACKAGED = Path(__file__).with_name("deploy")
_FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "deploy"  # the latter in a clone


def recipes() -> dict[str, Path]:
    """The files, by name: `local` is deploy/local.yaml."""
    return {path.stem: path for suffix in ("yaml", "sbatch") for path in sorted(_FOLDER.rglob(f"*.{suffix}"))}


def find(config: str) -> str:
    """The path of a recipe, where `config` is its name and no file; otherwise `config` as it is."""
    if Path(config).suffix or Path(config).exists():
        return config
    return str(recipes().get(config, config))


def describe() -> str:
    """A line for each recipe: its name and the first line of its comment."""
    lines = []
    for name, path in recipes().items():
        comment = next((line for line in path.read_text().splitlines() if line.startswith("# ")), "")
        lines.append(f"{name:<22} {comment.removeprefix('# ')}")
    return "\n".join(lines)


def write(name: str) -> Path:
    """Copy a recipe into the current folder; returns where it is.

    Raises:
        ConfigError: there is no such recipe, or a file of its name exists, or it cannot be written.
    """
    source = recipes().get(name)
    if source is None:
        raise ConfigError(f"no recipe is named {name!r}: `coordinator init --list` shows them")
    path = Path(source.name)
    try:
        with source.open("rb") as content, path.open("xb") as file:
            shutil.copyfileobj(content, file)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists: move it away first") from exc
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc
    return path
