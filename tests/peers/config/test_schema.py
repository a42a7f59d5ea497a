"""The schema documents itself, survives a file unchanged, and knows what determines the weights."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from peers.config.loading import contradictions, dump, identity, identity_digest, load, parse, plain, rounds_of, updated
from peers.config.schema import Config, Line, NetworkConfig, Section
from tests.reference import fields


def sections(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    """Every section below a model, and those below them."""
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield field.annotation
            yield from sections(field.annotation)


MODELS = [Config, NetworkConfig, *sections()]
FIELDS = dict(fields())
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20)


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """What the field's constraints allow, for a strategy of hypothesis: wide, but not absurd."""
    low, high, open_low, open_high = -1000.0, 1e6, False, False
    for mark in field.metadata:
        if isinstance(mark, annotated_types.Ge | annotated_types.Gt):
            open_low = isinstance(mark, annotated_types.Gt)
            low = float(mark.gt if isinstance(mark, annotated_types.Gt) else mark.ge)  # type: ignore[arg-type]  # a number
        if isinstance(mark, annotated_types.Le | annotated_types.Lt):
            open_high = isinstance(mark, annotated_types.Lt)
            high = float(mark.lt if isinstance(mark, annotated_types.Lt) else mark.le)  # type: ignore[arg-type]  # a number
    return {"min_value": low, "max_value": high, "exclude_min": open_low, "exclude_max": open_high}


def values_of(path: str, annotation: Any = None) -> st.SearchStrategy[Any]:
    """Valid values of a field, as they stand in a file."""
    field, annotation = FIELDS[path], annotation or FIELDS[path].annotation
    if path == "run.name":
        return st.none() | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
    if path == "probe.linear_l2":
        return st.lists(st.floats(0, 10), min_size=1, max_size=5)
    if path == "launcher.ray.runtime_env":
        return st.dictionaries(TEXT, st.booleans() | TEXT, max_size=2)
    if typing.get_origin(annotation) is tuple:
        return st.lists(TEXT, max_size=3)
    if typing.get_origin(annotation) is typing.Annotated:
        return values_of(path, typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return st.one_of(*(values_of(path, part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if annotation is int:
        bounds = bounds_of(field)
        top = bounds["max_value"] - 1 if bounds["exclude_max"] else bounds["max_value"]
        return st.integers(ceil(bounds["min_value"]), int(min(top, 2**62)))
    if annotation is float:
        return st.floats(**bounds_of(field))
    plain_values = {
        bool: st.booleans(),
        type(None): st.none(),
        str: TEXT,
    }
    return plain_values[annotation]


def trees(section: str) -> st.SearchStrategy[Any]:
    """Valid trees of one section, without contradictions where these would be the rule."""
    below = [path.removeprefix(f"{section}.").partition(".") for path in FIELDS if path.startswith(f"{section}.")]
    tree = st.fixed_dictionaries(
        {
            name: trees(f"{section}.{name}") if dot else values_of(f"{section}.{name}")
            for name, dot in dict.fromkeys(part[:2] for part in below)
        }
    )
    if section == "run":
        return st.builds(lambda drawn, key: {**drawn, key: None}, tree, st.sampled_from(["rounds", "epochs"]))
    if section == "exchange":
        times = ["heartbeat", "round_deadline", "join_window"]
        kinds = st.sampled_from(["auto", "collective", "inprocess"])
        return st.builds(
            lambda drawn, kind: {
                **drawn,
                **dict(zip(times, sorted(drawn[k] for k in times), strict=True)),
                "kind": kind,
            },
            tree,
            kinds,
        )
    return st.lists(tree, min_size=1, max_size=3) if section == "network" else tree


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    """A section has a docstring of its own, and every field a description, unless its type is such a section."""
    assert model.__doc__
    assert model.__doc__ != Section.__doc__
    for name, field in model.model_fields.items():
        documented = field.description or (field.annotation in MODELS and field.annotation.__doc__)
        assert documented, f"{model.__name__}.{name}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_defaults_are_valid(model: type[BaseModel]) -> None:
    """The defaults pass their own constraints, written out as a file would hold them."""
    defaults = model()
    assert model.model_validate(defaults.model_dump()) == defaults
    assert list(contradictions(Config())) == []
    assert load() == Config()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_values_are_frozen_closed_and_typed(model: type[BaseModel]) -> None:
    """No field can be set afterwards, no unknown key is taken, and text does not pass for a number."""
    name = next(iter(model.model_fields))
    with pytest.raises(ValidationError):
        setattr(model(), name, None)
    with pytest.raises(ValidationError):
        model.model_validate({"no_such_field": 1})
    for key, field in model.model_fields.items():
        if field.annotation in (int, float, bool):
            with pytest.raises(ValidationError):
                model.model_validate({key: "1"})


def through_file(config: Config, folders: pytest.TempPathFactory) -> Config:
    """What a configuration is after it was dumped to a file and loaded from it."""
    path = folders.getbasetemp() / "round-trip.yaml"
    path.write_text(dump(config), encoding="utf-8")
    return load(path)


@pytest.mark.parametrize("section", dict.fromkeys(path.partition(".")[0] for path in FIELDS if "." in path))
@settings(max_examples=40)
@given(data=st.data())
def test_a_file_gives_back_what_was_dumped(
    section: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any valid values of any section, dump and load are inverse."""
    long = {"run": {"epochs": 1.0}} if section == "optimizer" else {}  # any warm-up fits into a run of open length
    config = Config.model_validate({**long, section: data.draw(trees(section))})
    assume(not list(contradictions(config)))
    assert through_file(config, tmp_path_factory) == config


@settings(max_examples=60)
@given(text=st.from_regex(r"\A[0-9][0-9._eE-]{0,6}\Z"))
@example(text="1e-3")
@example(text="2024-01-01")
@example(text="007")
@example(text="1.5")
def test_names_that_look_like_numbers_stay_names(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run may be called after a learning rate or a date: in the saved configuration it is still a text."""
    config = parse({"run": {"name": text, "out": text}, "data": {"root": text}})
    assert through_file(config, tmp_path_factory) == config


def test_plain_holds_only_what_yaml_and_json_know() -> None:
    """Numbers, texts, lists and mappings; one network stands without its list, several with it."""
    one, two = plain(Config()), plain(parse({"network": [{"name": "mlp"}, {"name": "convnet"}]}))
    assert one["network"]["name"] == "mlp"
    assert [network["name"] for network in two["network"]] == ["mlp", "convnet"]
    assert one["probe"]["linear_l2"] == [1e-4, 1e-3, 1e-2, 1e-1]


def test_networks_are_dealt_in_turn() -> None:
    """Peer i has architecture i modulo the length of the list."""
    config = parse({"network": [{"width": 8}, {"width": 16}, {"width": 32}]})
    assert [config.network_of(peer).width for peer in range(5)] == [8, 16, 32, 8, 16]


def test_updated_replaces_values_and_checks_them() -> None:
    """`updated` changes what it is told, keeps all else, leaves its argument alone and refuses bad values."""
    before = parse({"data": {"batch": 32}})
    after = updated(before, run={"seed": 5, "name": "x"}, data={"validation": 0.2})
    assert (after.run.seed, after.run.name, after.data.batch, after.data.validation) == (5, "x", 32, 0.2)
    assert before == parse({"data": {"batch": 32}})
    with pytest.raises(Exception, match=r"run\.seed = -1"):
        updated(before, run={"seed": -1})


@settings(max_examples=80)
@given(tenths=st.integers(1, 500), per_epoch=st.integers(1, 2000))
@example(tenths=98, per_epoch=195)  # 9.8 * 195 is 1911.0000000000002
def test_epochs_round_up_to_whole_rounds(tenths: int, per_epoch: int) -> None:
    """The run is the shortest that covers the epochs as they were written, and at least one round."""
    config = parse({"run": {"epochs": tenths / 10}})
    assert rounds_of(config, per_epoch) == max(1, ceil(Fraction(tenths, 10) * per_epoch))


def test_rounds_are_as_given_or_a_hundred() -> None:
    """Without epochs the number of rounds is the configured one, by default 100."""
    assert rounds_of(parse({"run": {"rounds": 7}}), 13) == 7
    assert rounds_of(Config(), 13) == 100


OUTSIDE = ("coordinator", "security", "probe", "selection", "checkpoint", "metrics", "launcher")
# What does not determine the weights: where the run lives, how it is launched, watched, probed and recorded, and its
# length under a constant learning rate.
FREE = {
    *("run.name", "run.rounds", "run.epochs", "run.out", "device"),
    *("data.root", "data.download", "data.budget_mib", "data.loader_workers", "consensus.max_skips"),
    *("group.peers_per_worker", "group.threads"),
    *(path for path in FIELDS if path.startswith("exchange.") and path != "exchange.wire"),
    *(path for path in FIELDS if path.partition(".")[0] in OUTSIDE),
}


OTHER = {
    "run.rounds": 7,
    "run.epochs": 2.0,
    "data.image_size": 8,
    "probe.train_images": 99,
    "probe.linear_l2": [0.5],
    "consensus.weight": 0.5,
    "optimizer.momentum": 0.5,
}
BASE: dict[str, Any] = {"data": {"name": "synthetic"}, "group": {"peers": 4}, "security": {"certs": "here"}}


def other_value(path: str) -> Any:
    """A valid value of a field that is not its default."""
    field = FIELDS[path]
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    if path in OTHER:
        return OTHER[path]
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(choice for choice in kinds if choice != field.default)
    if isinstance(field.default, tuple):
        return ["other"]
    if field.annotation == dict[str, Any]:
        return {"other": 1}
    if str in kinds or Line in kinds:
        return "elsewhere"
    if bool in kinds:
        return not field.default
    if int in kinds:
        return (field.default or 7) + 1
    return (field.default or 0.5) * 0.5


@pytest.mark.parametrize("path", FIELDS)
def test_identity_holds_what_determines_the_weights(path: str) -> None:
    """Changing one value changes the identity exactly if the weights depend on it, and under its own name."""
    section, *keys = path.split(".")
    value = other_value(path)
    change = functools.reduce(lambda inner, key: {key: inner}, reversed(keys), value)
    tree = {**BASE, section: {**BASE.get(section, {}), **change} if keys else change}
    before, after = identity(parse(dict(BASE)), 100), identity(parse(tree), 100)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert parse(tree) != parse(dict(BASE))
    assert changed - {"run.rounds"} == {path} - FREE  # run.rounds joins in with a schedule that depends on it
    assert (identity_digest(before) == identity_digest(after)) == (path in FREE)


@pytest.mark.parametrize(("schedule", "same"), [("constant", True), ("cosine", False)])
def test_length_counts_where_the_learning_rate_depends_on_it(schedule: str, same: bool) -> None:
    """Under a constant rate a run may be prolonged from its checkpoints; under a cosine it is another run."""
    config = parse({"optimizer": {"schedule": schedule}})
    short, long = identity(config, 100), identity(config, 200)
    assert (short == long) == same
    assert {key for key in {*short, *long} if short.get(key) != long.get(key)} <= {"run.rounds"}


def test_identity_of_several_networks_names_each() -> None:
    """Every architecture of a list is part of the identity, in its place."""
    first, second = {"width": 8, "depth": 2}, {"width": 8, "depth": 3}
    facts = [identity(parse({"network": networks}), 1) for networks in ([first, second], [second, first])]
    assert facts[0]["network.0.depth"] == facts[1]["network.1.depth"] == 2
    assert facts[0] != facts[1]


def test_identity_does_not_depend_on_order_or_on_a_file(tmp_path: Path) -> None:
    """The digest is over sorted keys, and a configuration read back from its file has the same identity."""
    facts = identity(Config(), 100)
    assert identity_digest(dict(reversed(facts.items()))) == identity_digest(facts)
    path = tmp_path / "config.yaml"
    path.write_text(dump(Config()))
    assert identity(load(path), 100) == facts
