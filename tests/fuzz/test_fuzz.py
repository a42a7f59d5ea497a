"""The fuzzers run: what they have found stays found, each of them goes on without a crash, and a crash is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.runner import MOST, fuzz
from tests.fuzz.targets import CORPUS, TARGETS, seeds

SECONDS = 3
"""Of each target, without its start: with that half a minute in all."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is refused is logged, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_the_tree_keeps_pass(target: str) -> None:
    """All of the corpus, without a fuzzer; among them are those that once failed."""
    once = TARGETS[target].load()
    assert seeds(target)
    for path in seeds(target):
        once(path.read_bytes())


def test_the_corpus_is_small() -> None:
    """Some dozens of inputs for each target, less than 100 KiB in all."""
    files = [path for target in TARGETS for path in seeds(target)]
    assert sum(path.stat().st_size for path in files) < 100 * 1024
    assert all(len(seeds(target)) <= MOST for target in TARGETS)
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_goes_on_without_a_crash(target: str, tmp_path: Path) -> None:
    """For a few seconds: more inputs are run than the tree keeps, new edges count, memory stays within the bound."""
    found = fuzz(target, tmp_path / "corpus", tmp_path / "crashes", seconds=SECONDS)
    assert not found.crash, found.output[-8000:]
    assert found.executions > len(seeds(target))
    assert found.features > 50
    assert 0 < found.mib <= TARGETS[target].mib


@pytest.mark.parametrize(("first", "code"), [(b"!", 77), (b"?", 70)], ids=["crash", "hang"])
def test_a_crash_and_a_hang_are_told_with_their_input(tmp_path: Path, first: bytes, code: int) -> None:
    """A target that is wrong on purpose: the exit code is not 0, and the input is kept."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "it").write_bytes(first)
    found = fuzz("planted", corpus, tmp_path / "crashes", runs=100)
    assert found.crash
    assert found.code == code
    assert found.kept is not None
    assert found.kept.read_bytes()[:1] == first
