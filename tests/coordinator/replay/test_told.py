"""What journals tell is joined into one course; what they cannot have told is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.replay.history import RoundSequence, read_history
from coordinator.replay.lives import Lives, lineage
from peers.common.errors import RunFolderError
from peers.runs.journal import Life, Skip, Terms

DIGEST = "0" * 32
HEAD: tuple[Mapping[str, Any], ...] = (
    {"begun": "ab", "run": "run"},
    {"joined": 1, "peers": [0, 1], "incarnations": [0, 0]},
    {"joined": 2, "peers": [2], "incarnations": [0]},
    {"formed": 0, "epoch": 1},
)


def closed(number: int, epoch: int = 1, **more: Any) -> dict[str, Any]:
    """The line of a round that closed."""
    return {"round": number, "epoch": epoch, "digest": DIGEST, **more}


def written(path: Path, lines: Sequence[Mapping[str, Any]]) -> list[RoundSequence]:
    """What a journal of these lines tells."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_history(path)


def life(round_: int, source: int, *, admitted: int = 0, epoch: int = 1, skips: Sequence[Skip] = ()) -> Life:
    """A life of a worker with one peer."""
    return Life(round_, 0, source, admitted, epoch, Terms((0,), "coordinator", 1), list(skips))


def test_members_and_contributors_last_until_they_change(tmp_path: Path) -> None:
    """A round has those of its line, or of the last line that named them; a void round has no contributors."""
    (sequence,) = written(
        tmp_path / "journal",
        [
            *HEAD,
            closed(0, contributors=[0, 1, 2], members=[0, 1, 2]),
            closed(1, contributors=[1, 2]),
            {"gone": 2, "left": False, "why": "silent"},
            {"round": 2, "epoch": 2, "void": "too few", "members": [0, 1]},
            closed(3, 2),
        ],
    )
    assert [round_.contributors for round_ in sequence.rounds] == [(0, 1, 2), (1, 2), (), (1, 2)]
    assert [round_.members for round_ in sequence.rounds] == [(0, 1, 2), (0, 1, 2), (0, 1), (0, 1)]
    assert [round_.void for round_ in sequence.rounds] == [False, False, True, False]
    assert dict(sequence.rounds[0].blocks) == {0: (0, 1), 1: (0, 1), 2: (2,)}


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([*HEAD, closed(0), closed(2)], "line 6 of .* tells of round 2, expected round 1: lines are missing"),
        ([*HEAD[:-1], closed(0)], "line 4 of .* tells of round 0, and none before of where the group began"),
        ([*HEAD, closed(0, 2), closed(1, 1)], "line 6 of .* damaged: .*epoch 1 comes after epoch 2"),
        ([*HEAD, {"round": 0, "epoch": 1, "digest": "ab"}], "line 5 of .* 'ab' is no digest of a receipt"),
        ([*HEAD, {"round": 0, "epocj": 1, "digest": DIGEST}], "line 5 of .* damaged: KeyError: 'epoch'"),
        ([*HEAD, {"rouod": 0, "epoch": 1, "digest": DIGEST}], "line 5 of .* damaged: KeyError: 'gone'"),
        ([*HEAD, closed(0, contributors=[0, "1"])], "line 5 of .* '1' is no number"),
    ],
)
def test_lines_that_nobody_wrote(tmp_path: Path, lines: Sequence[Mapping[str, Any]], text: str) -> None:
    """Gaps, unknown names and wrong values: the error names the file, the line, and what is wrong with it."""
    with pytest.raises(RunFolderError, match=text):
        written(tmp_path / "journal", lines)


def stretches_of(tmp_path: Path, *sequences: tuple[int, int, int], anew: bool = False) -> list[RoundSequence]:
    """Sequences of (first round, rounds, epoch) with peers 0 to 2; `anew`: each with a store of its own."""
    lines: list[Mapping[str, Any]] = []
    for first, count, epoch in sequences:
        lines += HEAD[:-1] if anew or not lines else ()
        lines += [{"formed": first, "epoch": epoch}]
        lines += [closed(first + at, epoch, contributors=[0, 1, 2], members=[0, 1, 2]) for at in range(count)]
    return written(tmp_path / "journal", lines)


def places(lives: Lives) -> list[tuple[int | None, int]]:
    """Sequence and first round of each of peer 0's parts."""
    return [(part.sequence, part.first) for part in lives.parts[0]]


def test_a_run_that_was_launched_anew_begins_its_numbers_again(tmp_path: Path) -> None:
    """Two lives of the same incarnation and epoch belong to one store each, the later to the later."""
    sequences = stretches_of(tmp_path, (0, 30, 1), (20, 30, 1), anew=True)
    lives = Lives({0: [life(0, 0), life(20, 20)]}, sequences)
    assert places(lives) == [(0, 0), (1, 20)]
    first, second = lives.parts[0]
    assert lives.source(first) is None
    assert lives.source(second) == (first, 20)
    assert lives.saved(0, 50) == (second, 50)


def test_a_peer_that_comes_back_has_the_newest_checkpoint_before_its_life(tmp_path: Path) -> None:
    """A life that was killed before it saved anything leaves the next one the checkpoint that it had itself."""
    sequences = stretches_of(tmp_path, (0, 100, 1))
    told_lives = [life(0, 0), life(60, 50, admitted=1), life(80, 50, admitted=2), life(95, 90, admitted=3)]
    lives = Lives({0: told_lives}, sequences)
    sources = [lives.source(part) for part in lives.parts[0]]
    first, _, third, _ = lives.parts[0]
    assert sources == [None, (first, 50), (first, 50), (third, 90)]


def test_an_expelled_peer_goes_on_in_memory(tmp_path: Path) -> None:
    """Within the sequence, or in a later one where the group has formed anew; what it missed stays with its part."""
    sequences = stretches_of(tmp_path, (0, 30, 1), (20, 60, 2))
    skips = [Skip(5, "late", 7), Skip(10, "expelled", 15), Skip(25, "expelled", 70), Skip(72, "void", 73)]
    lives = Lives({0: [life(0, 0, skips=skips)]}, sequences)
    assert places(lives) == [(0, 0), (0, 15), (1, 70)]
    parts = lives.parts[0]
    assert [len(part.skips) for part in parts] == [2, 1, 1]
    assert [part.before for part in parts] == [None, parts[0], parts[1]]
    assert lives.source(parts[2]) == (parts[1], 70)
    assert lives.of(1) == parts[2:]


def test_below_a_relay_epochs_are_its_own(tmp_path: Path) -> None:
    """A life is found by its round where no epoch fits; one that was there when the journal ended, by the next."""
    sequences = stretches_of(tmp_path, (0, 30, 4))
    lives = Lives({0: [life(3, 0, epoch=1), life(30, 20, admitted=1, epoch=2)]}, sequences)
    assert places(lives) == [(0, 3), (0, 30)]


def test_a_checkpoint_that_nobody_can_have_saved(tmp_path: Path) -> None:
    """The error names the peer and the round."""
    lives = Lives({0: [life(40, 0)]}, stretches_of(tmp_path, (0, 60, 1)))
    with pytest.raises(
        RunFolderError, match="peer 0 has a checkpoint of round 30, and no life in its journal was there"
    ):
        lives.saved(0, 30)


def test_what_a_restart_dropped_is_no_part_of_the_lineage() -> None:
    """Of a fixed group's lives those count that the last one goes back to."""
    all_lives = [life(0, 0), life(50, 50), life(50, 50), life(20, 20), life(80, 80)]
    assert lineage(all_lives) == [all_lives[0], all_lives[3], all_lives[4]]
    assert lineage([]) == []
