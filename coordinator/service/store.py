"""What survives the coordinator's own death: one SQLite file (write-ahead log) in the state folder.

It holds the run's identity, the course of its rounds, who belongs to the group (bearers as hashes), the last words, and
the last settled round with its bytes. Everything that one step changed is written in one transaction, before anybody is
told; `synchronous=NORMAL` survives the death of the process, not always that of the machine (then the last rounds may
be missing, and the peers are told that they are ahead).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.service.aggregate import Outcome
from coordinator.service.rounds import Settled
from peers.errors import RunFolderError

FILE = "coordinator.sqlite"
LAYOUT = 1
_TABLES = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE reports (peer INTEGER PRIMARY KEY, report BLOB NOT NULL) STRICT",
    "CREATE TABLE outcome (one INTEGER PRIMARY KEY CHECK (one = 1), round INTEGER NOT NULL, content INTEGER NOT NULL, "
    "digest BLOB NOT NULL, dtype INTEGER NOT NULL, peers TEXT NOT NULL, payload BLOB NOT NULL, "
    "checksum INTEGER NOT NULL) STRICT",
)


@dataclass(frozen=True)
class Kept:
    """What a store held when it was opened.

    Attributes:
        course, roll: of `Group`.
        agreed: what the workers must have in common.
        outcome: the last settled round.
        reports: {peer: JSON}.
    """

    course: Mapping[str, Any]
    roll: Mapping[str, Any]
    agreed: Mapping[str, str]
    outcome: Outcome | None
    reports: Mapping[int, bytes]


class Store:
    """The store of one run.

    Args:
        folder: made if it is missing.
        run_id: the run's name.
        digest: of the settings that decide its numbers.

    Raises:
        RunFolderError: damaged, of another run or other settings, in use, or not writable.
    """

    def __init__(self, folder: str, run_id: str, digest: str) -> None:
        self._folder = Path(folder)
        self._identity = {"run_id": run_id, "settings": digest, "layout": str(LAYOUT)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise RunFolderError(f"state folder {folder} cannot be used: {exc}; give another with --state") from exc
        try:
            self._occupy()
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Write the log back and let others use the folder."""
        self._db.close()
        os.close(self._lock)

    def load(self) -> Kept | None:
        """What was kept; None for a new run.

        Raises:
            RunFolderError: damaged.
        """
        try:
            facts = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}
            if "course" not in facts:
                return None
            last = Settled.from_kept(facts["course"]["last"]) if facts["course"]["last"] else None
            outcome = self._outcome(last) if last else None
            reports = dict(self._db.execute("SELECT peer, report FROM reports"))
            return Kept(facts["course"], facts["roll"], facts["agreed"], outcome, reports)
        except (sqlite3.Error, KeyError, TypeError, ValueError) as exc:
            raise self._damaged(str(exc)) from exc

    def save(
        self,
        course: Mapping[str, Any],
        roll: Mapping[str, Any] | None = None,
        agreed: Mapping[str, str] | None = None,
        outcome: Outcome | None = None,
        reports: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write what has changed, all or nothing; None leaves what is there.

        Raises:
            RunFolderError: it cannot be written, e.g. the disk is full.
        """
        facts = {"course": course, "roll": roll, "agreed": agreed}
        rows = [(name, json.dumps(value)) for name, value in facts.items() if value is not None]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
                self._db.executemany("INSERT OR REPLACE INTO reports VALUES (?, ?)", list((reports or {}).items()))
                if outcome is not None:
                    self._db.execute("INSERT OR REPLACE INTO outcome VALUES (1, ?, ?, ?, ?, ?, ?, ?)", _row(outcome))
        except sqlite3.Error as exc:
            raise RunFolderError(
                f"state folder {self._folder} cannot be written: {exc}; the coordinator stops rather than close rounds "
                f"that it would forget: free the disk and start it again"
            ) from exc

    def _occupy(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RunFolderError(
                f"state folder {self._folder} is in use by another coordinator: stop that one, or give another folder"
            ) from exc

    def _open(self) -> sqlite3.Connection:
        path = self._folder / FILE
        new = not path.exists()
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if new:
                path.chmod(0o600)
                db.execute("PRAGMA page_size = 32768")  # results are large; fewer pages, fewer checkpoints
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if new:
                self._create(db)
            verdict = db.execute("PRAGMA quick_check").fetchone()[0]
            if verdict != "ok":
                raise self._damaged(verdict)
            self._identify(db)
        except sqlite3.Error as exc:
            db.close()
            raise self._damaged(str(exc)) from exc
        except BaseException:
            db.close()
            raise
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        with db:
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                db.execute(statement)
            facts = [(name, json.dumps(value)) for name, value in self._identity.items()]
            db.executemany("INSERT INTO facts VALUES (?, ?)", facts)

    def _identify(self, db: sqlite3.Connection) -> None:
        found = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM facts")}
        for name, due in self._identity.items():
            if name not in found:
                raise self._damaged(f"it does not say its {name}")
            if found[name] != due:
                raise RunFolderError(
                    f"state folder {self._folder} belongs to another run: its {name} is {found[name]}, expected {due}; "
                    f"give another folder with --state, or continue that run with its own configuration"
                )

    def _outcome(self, last: Settled) -> Outcome:
        row = self._db.execute("SELECT round, content, digest, dtype, peers, payload, checksum FROM outcome").fetchone()
        if row is None:
            raise ValueError(f"the result of round {last.round} is missing")
        round_, content, digest, dtype, listed, payload, checksum = row
        if round_ != last.round or zlib.crc32(payload) != checksum:
            raise ValueError(f"the result of round {last.round} does not fit its checksum")
        peers = json.loads(listed)
        size = len(payload) // len(peers) if peers else 0
        view = memoryview(payload)
        tensors = {peer: view[at * size : (at + 1) * size] for at, peer in enumerate(peers)}
        return Outcome(last, content, digest, dtype, tensors)

    def _damaged(self, how: str) -> RunFolderError:
        return RunFolderError(
            f"the store in state folder {self._folder} is damaged: {how}; restore {FILE} from a copy, or start a new "
            f"run in another folder with --state: nothing is begun anew here unasked"
        )


def _row(outcome: Outcome) -> tuple[object, ...]:
    parts = list(outcome.tensors.values())
    payload = parts[0] if len(parts) == 1 else b"".join(parts)  # a total is not copied once more
    peers = json.dumps(list(outcome.tensors))
    content, dtype = int(outcome.content), int(outcome.dtype)
    return outcome.settled.round, content, outcome.digest, dtype, peers, payload, zlib.crc32(payload)


def forget(state: Path) -> None:
    """Remove a store, if there is one: a run that is launched anew forms its group at the newest round all have saved.

    Args:
        state: its folder; whatever else lies there stays.
    """
    for path in state.glob(f"{FILE}*"):  # the write-ahead log lies beside it
        path.unlink()
