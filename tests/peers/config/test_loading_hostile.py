"""Configuration files that nobody would write: a Config, or a ConfigError that names the place, never anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peers.common.errors import ConfigError
from peers.config.loading import dump, load, parse
from peers.config.schema import Config

SECTIONS = {
    name: sorted(_fields)
    for name, _fields in ((n, dict(v)) for n, v in Config().model_dump().items() if isinstance(v, dict))
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["mean", "cpu", "cosine", "ray", "slurm", "coordinator", "digits", "auto", ""])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 8)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@st.composite
def trees(draw: Any) -> dict[str, Any]:
    """Sections and fields that exist, mostly, with any values."""
    tree: dict[str, Any] = {}
    for section in draw(st.lists(st.sampled_from(sorted(SECTIONS)), max_size=3, unique=True)):
        names = st.sampled_from(SECTIONS[section]) | st.text(max_size=4)
        tree[section] = draw(st.dictionaries(names, VALUES, max_size=3) | VALUES)
    if draw(st.booleans()):
        tree["network"] = draw(VALUES | st.lists(st.dictionaries(st.sampled_from(["name", "depth", "width"]), VALUES)))
    return tree


@settings(max_examples=100)
@given(tree=trees())
def test_any_tree_is_a_configuration_or_a_named_problem(tree: dict[str, Any]) -> None:
    """Whatever stands in a file: it is taken, or each problem names a field that the file has, or should have."""
    try:
        config = parse(tree)
    except ConfigError as exc:
        problems = str(exc).splitlines()[1:]
    else:
        assert isinstance(config, Config)
        return
    assert problems
    known = {*tree, *Config.model_fields}
    assert all(any(name in line for name in known) for line in problems if line.startswith("  ")), problems


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80) | trees().map(lambda tree: yaml.dump(tree, allow_unicode=True)))
def test_any_text_is_a_configuration_or_refused(text: str, tmp_path: Path) -> None:
    """As bytes on disk; what is taken is written and read back as the same."""
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = load(path)
    except ConfigError as exc:
        assert str(path) in str(exc) or "given twice" in str(exc)  # noqa: PT017  # either is fine
        return
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: {name: 2001-99-99}", "'2001-99-99' is no timestamp: month must be in 1..12"),
        ("run: {rounds: !!int ten}", "'ten' is no int"),
        ("run: {rounds: !!bool ten}", "'ten' is no bool"),
        ("run: {rounds: 0b_}", "'0b_' is no int"),
        ("run: {rounds: " + "9" * 5000 + "}", "is no int: Exceeds the limit"),
        ("run: " + "[" * 2000, "nested too deeply"),
        ("run: !!python/object/apply:os.abort []", "could not determine a constructor"),
    ],
    ids=["date", "int", "bool", "no digits", "many digits", "depth", "code"],
)
def test_values_that_yaml_chokes_on_are_named(tmp_path: Path, text: str, words: str) -> None:
    """The place, and what is wrong there; a tag that asks for code is no different."""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("place", ["run: {name: *l}", "consensus: {target: *l}", "network: *l"])
def test_a_file_of_aliases_makes_no_endless_text(tmp_path: Path, place: str) -> None:
    """Twelve lines that stand for 8^12 values are refused in a text that can be read."""
    path = tmp_path / "run.yaml"
    path.write_text(BOMB + place)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert len(str(refused.value)) < 20_000


def test_a_key_that_is_no_text_is_named() -> None:
    """Half of a surrogate pair, which a command line can pass, in the place of a section's name."""
    with pytest.raises(ConfigError, match=r"the whole.*udcff"):
        load(None, ["\udcffz=1"])
