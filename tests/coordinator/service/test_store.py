"""The store brings back what was kept, and never begins anew unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coordinator.service.aggregate import Aggregation
from coordinator.service.group import Group
from coordinator.service.rounds import SettledRound
from coordinator.service.store import FILE, StateStore
from peers.common.errors import RunFolderError
from protos.consensus_pb2 import FLOAT32, OK, TOTAL
from protos.tensors import Float32, to_wire
from tests.coordinator.service.settled import BATCH, settings

SETTLED = SettledRound(3, 1, {1: (0,), 2: (1,)}, OK, "", BATCH, {1: OK, 2: OK}, {1: 11, 2: 12}, (0, 1))
OUTCOME = Aggregation(SETTLED, TOTAL, b"d" * 16, FLOAT32, {-1: bytes(range(256)) * 500})


def filled(folder: Path) -> None:
    """A store with a settled round."""
    store = StateStore(str(folder), "run", "digest")
    assert store.load() is None, "a new run"
    group = Group(settings(), 0.0)
    group.rounds.last = SETTLED
    store.save(group.progress_state(), group.membership_state(), {"data": "x"}, OUTCOME, {0: b"{}"})
    store.close()


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    """Course, members, agreement, reports, and the last result with its bytes."""
    filled(tmp_path)
    store = StateStore(str(tmp_path), "run", "digest")
    kept = store.load()
    store.close()
    assert kept is not None
    assert kept.outcome is not None
    assert kept.outcome.settled == SETTLED
    assert bytes(kept.outcome.tensors[-1]) == OUTCOME.tensors[-1]
    assert (kept.outcome.digest, kept.outcome.content) == (b"d" * 16, TOTAL)
    assert (kept.agreed, kept.reports) == ({"data": "x"}, {0: b"{}"})


def test_only_the_last_result_is_kept(tmp_path: Path) -> None:
    """A later round replaces the one before: the file does not grow with the rounds."""
    filled(tmp_path)
    store = StateStore(str(tmp_path), "run", "digest")
    course = Group(settings(), 0.0).progress_state()
    for _ in range(20):
        store.save(course, outcome=OUTCOME)
    store.close()
    assert (tmp_path / FILE).stat().st_size < 10 * len(OUTCOME.tensors[-1])


@pytest.mark.parametrize("between", [0, 1, 2, 3])
def test_the_newest_result_is_not_overwritten_by_the_next(tmp_path: Path, between: int) -> None:
    """Whatever was saved in between, others' comings and goings: somebody may still be told of it."""
    store = StateStore(str(tmp_path), "run", "digest")
    assert store.load() is None
    group = Group(settings(), 0.0)
    store.save(group.progress_state(), group.membership_state(), {})
    group.rounds.last = SETTLED
    before: Float32 | None = None
    for value in range(1, 7):
        made = store.room((4, 8))
        made[:] = value
        assert before is None or (before == value - 1).all()
        store.save(
            group.progress_state(), outcome=Aggregation(SETTLED, TOTAL, b"", FLOAT32, {-1: to_wire(made, FLOAT32)})
        )
        for _ in range(between):
            store.save(group.progress_state(), group.membership_state(), {})
        before = made
    store.close()
    again = StateStore(str(tmp_path), "run", "digest")
    kept = again.load()
    again.close()
    assert kept is not None
    assert kept.outcome is not None
    assert bytes(kept.outcome.tensors[-1]) == np.full((4, 8), 6, np.float32).tobytes()


def test_another_runs_store_is_refused(tmp_path: Path) -> None:
    """Another run id, or other settings: both are named, nothing is changed."""
    filled(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    for run, digest, text in (("other", "digest", "run_id is run, expected other"), ("run", "x", "settings is digest")):
        with pytest.raises(RunFolderError, match=text):
            StateStore(str(tmp_path), run, digest)
    assert (tmp_path / FILE).read_bytes() == before


def damage(path: Path, how: str) -> None:
    """Harm a file in one way."""
    data = bytearray(path.read_bytes())
    if how == "emptied":
        data.clear()
    elif how == "truncated":
        del data[len(data) // 2 :]
    elif how == "overwritten":
        data[:] = b"no database at all" * (len(data) // 18)
    else:
        at = data.index(bytes(range(256)))
        data[at + 5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["emptied", "truncated", "overwritten", "one bit of the result flipped"])
def test_a_damaged_store_is_named_and_nothing_begins_anew(tmp_path: Path, how: str) -> None:
    """Whatever was done to the file, there is an error that names it, with exit code 2."""
    filled(tmp_path)
    damage(tmp_path / FILE, how)
    with pytest.raises(RunFolderError, match="damaged") as caught:
        StateStore(str(tmp_path), "run", "digest").load()
    assert caught.value.exit_code == 2
    assert "nothing is begun anew" in str(caught.value)


def test_two_coordinators_cannot_share_a_state_folder(tmp_path: Path) -> None:
    """The second is told that the folder is in use."""
    store = StateStore(str(tmp_path), "run", "digest")
    with pytest.raises(RunFolderError, match="in use by another coordinator"):
        StateStore(str(tmp_path), "run", "digest")
    store.close()
    StateStore(str(tmp_path), "run", "digest").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be used"):
        StateStore(str(tmp_path / "file" / "state"), "run", "digest")
