"""Target `config`: any text as a configuration file, or as a `--set`: a Config, or a ConfigError that says where."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from peers.common.errors import ConfigError
from peers.config.loading import dump, load
from tests.fuzz.reader import Reader


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def once(data: bytes) -> None:
    """One input: perhaps a setting, then the file."""
    reader = Reader(data)
    sets = [reader.chunk().decode("utf-8", "surrogateescape")] if reader.flag() else []
    path = _folder() / "run.yaml"
    path.write_bytes(reader.rest())
    try:
        config = load(path, sets)
    except ConfigError as exc:
        refusal = str(exc)
    else:
        path.write_text(dump(config), encoding="utf-8")
        assert load(path) == config, "what was written is not what is read back"
        return
    assert len(refusal) < 200_000, "an error that nobody can read"
