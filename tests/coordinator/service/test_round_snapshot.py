"""The ledger holds the newest step and the one before, and never takes a torn or damaged one for whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.service.group import Group
from coordinator.service.round_snapshot import FILES, DamagedError, RoundSnapshot, RoundSnapshots
from coordinator.service.store import StateStore
from peers.common.errors import RunFolderError
from tests.coordinator.service import settled as made
from tests.coordinator.service.test_store import OUTCOME, SETTLED, filled

STEPS = st.lists(st.tuples(st.binary(max_size=300), st.lists(st.binary(max_size=5000), max_size=3)), max_size=6)


@settings(max_examples=50)
@given(steps=STEPS)
def test_the_last_two_steps_come_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bytes, list[bytes]]]
) -> None:
    """Whatever their sizes, which may grow and shrink; also after the files were opened anew."""
    folder = tmp_path_factory.mktemp("ledger")
    ledger = RoundSnapshots(folder)
    due: list[RoundSnapshot] = []
    for step, (text, payload) in enumerate(steps):
        ledger.write(step, step // 2, text, payload)
        due = [RoundSnapshot(step, step // 2, text, b"".join(payload)), *due][:2]
        assert ledger.read() == due
    ledger.close()
    again = RoundSnapshots(folder)
    assert again.read() == due
    again.close()


def test_a_torn_entry_counts_as_none_and_a_flipped_bit_as_damage(tmp_path: Path) -> None:
    """A writer that dies leaves zeros at the start; anything else that does not fit is no such thing."""
    ledger = RoundSnapshots(tmp_path)
    for step in range(2):
        ledger.write(step, 1, b"text", [b"payload" * 100])
    ledger.close()
    newest = tmp_path / FILES[1]
    whole = newest.read_bytes()
    newest.write_bytes(bytes(40) + whole[40:])
    torn = RoundSnapshots(tmp_path)
    assert [entry.step for entry in torn.read()] == [0]
    torn.close()
    for place in (0, 10, 35, 64, 300, len(whole) - 1):
        harmed = bytearray(whole)
        harmed[place] ^= 4
        newest.write_bytes(bytes(harmed))
        damaged = RoundSnapshots(tmp_path)
        with pytest.raises(DamagedError, match=FILES[1]):
            damaged.read()
        damaged.close()


def test_what_is_made_where_it_is_kept_comes_back(tmp_path: Path) -> None:
    """Steps in turn, larger ones too, while the results before are still looked at; nothing else takes their place."""
    ledger = RoundSnapshots(tmp_path)
    looked_at = []
    for step, rows in enumerate((2, 3, 50_000, 3, 3)):
        made = ledger.room(step, (rows, 4))
        made[:] = step
        looked_at.append(made[:1])
        ledger.write(step, 1, b"text" * (step + 1), [made.data.cast("B")])
        newest, before = (*ledger.read(), None)[:2]
        assert newest == RoundSnapshot(step, 1, b"text" * (step + 1), np.full((rows, 4), step, np.float32).tobytes())
        assert before is None or before.step == step - 1
    ledger.write(5, 1, b"text", [b"not what room has given"])
    assert ledger.read()[0].payload == b"not what room has given"
    ledger.close()
    assert looked_at[-1].tolist() == [[4.0] * 4], "closing takes nothing away from who looks at it"


def test_a_death_while_a_result_is_made_leaves_the_step_before(tmp_path: Path) -> None:
    """What is made in the place of the step before the last is whole only once it is written."""
    ledger = RoundSnapshots(tmp_path)
    for step in range(2):
        ledger.write(step, 1, b"text", [bytes(32)])
    ledger.room(2, (2, 4))[:] = 7.0
    ledger.close()
    again = RoundSnapshots(tmp_path)
    assert [entry.step for entry in again.read()] == [1]
    again.close()


def with_an_entry(folder: Path) -> None:
    """A store with a settled round, and a newer step in its ledger, before round 17."""
    filled(folder)
    store = StateStore(str(folder), "run", "digest")
    assert store.load() is not None
    group = Group(made.settings(), 0.0)
    group.rounds.last = SETTLED
    group.rounds.upcoming = 17
    store.save(group.progress_state(), outcome=OUTCOME)
    store.close()


def test_the_store_takes_the_newest_entry_that_belongs_to_its_facts(tmp_path: Path) -> None:
    """An entry made with facts that never reached the database is of a step that nobody was told of."""
    with_an_entry(tmp_path)
    ahead = RoundSnapshots(tmp_path)
    (entry,) = ahead.read()
    ahead.write(entry.step + 1, entry.facts + 1, entry.text.replace(b"17", b"99"), [entry.payload])
    ahead.close()
    store = StateStore(str(tmp_path), "run", "digest")
    kept = store.load()
    store.close()
    assert kept is not None
    assert kept.progress["upcoming"] == 17


def test_a_damaged_ledger_is_named_and_nothing_begins_anew(tmp_path: Path) -> None:
    """A bit of the newest round's result was flipped: an error, with exit code 2."""
    with_an_entry(tmp_path)
    for path in (tmp_path / name for name in FILES):
        data = bytearray(path.read_bytes())
        if any(data):
            data[-5] ^= 1
            path.write_bytes(bytes(data))
    with pytest.raises(RunFolderError, match="damaged") as caught:
        StateStore(str(tmp_path), "run", "digest").load()
    assert caught.value.exit_code == 2
