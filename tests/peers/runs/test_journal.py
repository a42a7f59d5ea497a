"""A peer's journal brings back the lives that were told, whatever a kill or a full disk has cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.common import json_lines as jsonl
from peers.common.errors import RunFolderError
from peers.runs.journal import Life, PeerJournal, Skip, Terms, read
from peers.runs.run_folder import RunFolder

TERMS = Terms((0, 2), "coordinator", 1)
NUMBERS = st.integers(0, 10**6)
SKIPS = st.lists(st.builds(Skip, NUMBERS, st.sampled_from(["late", "void", "expelled"]), NUMBERS), max_size=3)
LIVES = st.lists(
    st.builds(
        Life, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.just(TERMS), SKIPS, st.one_of(st.none(), NUMBERS)
    ),
    max_size=4,
)  # fmt: skip


def tell(folder: Path, lives: list[Life]) -> Path:
    """Write lives as workers do, each in a journal of its own; the file of peer 2."""
    for life in lives:
        journal = PeerJournal(RunFolder(folder), [0, 2])
        for peer in (0, 2):
            journal.begin(peer, life)
        for skip in life.skips:
            journal.skip(skip)
        if life.ended is not None:
            journal.end(life.ended, "complete")
    return RunFolder(folder).journal(2)


@settings(max_examples=40)
@given(lives=LIVES)
def test_what_was_told_comes_back(tmp_path_factory: pytest.TempPathFactory, lives: list[Life]) -> None:
    """Every life, with all that was told of it, for each of the hosted peers."""
    path = tell(tmp_path_factory.mktemp("run"), lives)
    if lives:
        assert read(path) == lives
        assert path.read_bytes() == path.with_name("peer-000.jsonl").read_bytes()


@settings(max_examples=40)
@given(lives=LIVES.filter(bool), share=st.floats(0, 1))
def test_a_cut_loses_what_it_cuts_and_nothing_after(
    tmp_path_factory: pytest.TempPathFactory, lives: list[Life], share: float
) -> None:
    """Cut anywhere, as by a kill: whole lines count, and the next worker's lines stand on lines of their own."""
    folder = tmp_path_factory.mktemp("run")
    path = tell(folder, lives)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    kept = jsonl.objects(path)
    assert kept == jsonl.objects(path.with_name("peer-000.jsonl"))[: len(kept)]
    tell(folder, [lives[0]])
    assert read(path)[-1] == lives[0]
    assert len(jsonl.objects(path)) >= len(kept) + 1


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda data: data.replace(b'"round"', b'"rounf"', 1), "line 1 of .* KeyError: 'round'"),
        (lambda data: data.replace(b"{", b"[", 1), "line 1 of .* is damaged"),
        (lambda data: data.replace(b'"skipped"', b'"skjpped"'), "line 2 of .* KeyError: 'ended'"),
        (lambda data: data[data.index(b"\n") + 1 :], "line 1 of .* IndexError"),
        (lambda data: b"7\n" + data, "line 1 of .* it is a int, expected an object"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, harm: object, text: str) -> None:
    """A line that cannot have been written, or belongs to no life: the error names file and line."""
    path = tell(tmp_path, [Life(3, 0, 0, 1, 4, TERMS, [Skip(5, "late", 7)])])
    assert callable(harm)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(RunFolderError, match=text):
        read(path)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that ends early is taken back, and the error says what could not be written."""
    path = tell(tmp_path, [Life(0, 0, 0, 0, 1, TERMS)])
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr("peers.common.json_lines.os.write", lambda file, data: write(file, data[: len(data) // 2]))
    with pytest.raises(RunFolderError, match=r"peer-000.jsonl cannot be written: No space left on device; free"):
        PeerJournal(RunFolder(tmp_path), [0]).end(1, "complete")
    assert path.with_name("peer-000.jsonl").read_bytes() == before


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(RunFolderError, match=r"peer-000.jsonl cannot be read: No such file"):
        read(RunFolder(tmp_path).journal(0))
