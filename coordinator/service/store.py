"""State of a coordinator on disk: a SQLite database, snapshots of the newest rounds, a journal.

The database holds what seldom changes: the run's identity, the members (bearers as hashes), the peers' reports. It also
holds the progress of the rounds and the last settled round with its bytes, as they were at that time. What changes with
every round, progress and last round, goes to `RoundSnapshots` alone. A snapshot counts only if it carries the current
version of the database: otherwise the coordinator died on the way from one to the other.

The third file, `RunJournal`, is the history of the run, for replays.

Everything that one step changed is kept before anybody is told. It survives the death of the process, not always that
of the machine (then the last rounds may be missing, and the peers are told that they are ahead).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from coordinator.service.aggregate import Aggregation
from coordinator.service.journal import RunJournal
from coordinator.service.round_snapshot import FILES, DamagedError, RoundSnapshots
from coordinator.service.rounds import SettledRound
from peers.common.errors import RunFolderError
from protos.frames import Buffer
from protos.tensors import Float32

FILE = "coordinator.sqlite"
LAYOUT = 3
_JSON = json.JSONEncoder(check_circular=False)  # `json.dumps` takes half as long again, in every round
_TABLES = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE reports (peer INTEGER PRIMARY KEY, report BLOB NOT NULL) STRICT",
    "CREATE TABLE outcome (one INTEGER PRIMARY KEY CHECK (one = 1), payload BLOB NOT NULL, "
    "checksum BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True)
class StoredState:
    """What a store held when it was opened.

    Attributes:
        progress, membership: of `Group`.
        agreed: what the workers must have in common.
        outcome: the last settled round.
        reports: {peer: JSON}.
    """

    progress: Mapping[str, Any]
    membership: Mapping[str, Any]
    agreed: Mapping[str, str]
    outcome: Aggregation | None
    reports: Mapping[int, bytes]


class StateStore:
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
            self._snapshots, self._journal = self._open_files()
        except BaseException:
            os.close(self._lock)
            raise
        self._step = self._version = self._settled = 0
        self._outcome: Aggregation | None = None

    def close(self) -> None:
        """Write the log back and let others use the folder."""
        self._journal.close()
        self._snapshots.close()
        self._db.close()
        os.close(self._lock)

    def load(self) -> StoredState | None:
        """What was kept; None for a new run.

        Raises:
            RunFolderError: damaged.
        """
        try:
            facts = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}
            if "newest" not in facts:
                return None
            self._version = facts["version"]
            newest, payload = facts["newest"], self._payload()
            self._step = newest["step"]
            for entry in self._snapshots.read():
                if entry.facts == self._version and entry.step >= self._step:
                    newest, payload, self._step = json.loads(entry.text), entry.payload, entry.step
                    break
            self._outcome = _outcome(newest, payload)
            self._journal.catch_up(newest["course"], facts["roll"], self._outcome)
            reports = dict(self._db.execute("SELECT peer, report FROM reports"))
            return StoredState(newest["course"], facts["roll"], facts["agreed"], self._outcome, reports)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        except (sqlite3.Error, DamagedError, KeyError, TypeError, ValueError) as exc:
            raise self._damaged(str(exc)) from exc

    def room(self, shape: tuple[int, int]) -> Float32:
        """Where the result of the next step is kept, to be made there: [B, D] float32.

        Its memory is taken again for the result after the next; never for the next one, while this one is still told.

        Raises:
            RunFolderError: it cannot be written, e.g. the disk is full.
        """
        if (self._step + 1 - self._settled) % len(FILES) == 0:  # other steps came between: the newest result lies there
            return np.empty(shape, np.float32)
        try:
            return self._snapshots.room(self._step + 1, shape)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def save(
        self,
        progress: Mapping[str, Any],
        membership: Mapping[str, Any] | None = None,
        agreed: Mapping[str, str] | None = None,
        outcome: Aggregation | None = None,
        reports: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write what has changed, all or nothing; None leaves what is there.

        Raises:
            RunFolderError: it cannot be written, e.g. the disk is full.
        """
        self._step += 1
        if outcome is not None:
            self._outcome, self._settled = outcome, self._step
        facts = {"roll": membership, "agreed": agreed}  # names on disk stay as older stores have them
        changed = [(name, value) for name, value in facts.items() if value is not None]
        newest = {"step": self._step, "course": progress, **_described(self._outcome)}
        payload = [] if self._outcome is None else list(self._outcome.tensors.values())
        try:
            if changed or reports or self._version == 0:
                self._version += 1
                self._transact([*changed, ("version", self._version), ("newest", newest)], payload, reports or {})
            else:
                known = b"" if self._outcome is None else self._outcome.checksum
                self._snapshots.write(self._step, self._version, _JSON.encode(newest).encode(), payload, known)
            self._journal.note(progress, membership, outcome)
        except (OSError, sqlite3.Error) as exc:
            raise self._unwritable(exc) from exc

    def _transact(
        self, facts: Sequence[tuple[str, object]], payload: Sequence[Buffer], reports: Mapping[int, bytes]
    ) -> None:
        whole = payload[0] if len(payload) == 1 else b"".join(payload)  # a total is not copied once more
        rows = [(name, json.dumps(value)) for name, value in facts]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
            self._db.executemany("INSERT OR REPLACE INTO reports VALUES (?, ?)", list(reports.items()))
            kept = (whole, xxhash.xxh3_64_digest(whole))
            self._db.execute("INSERT OR REPLACE INTO outcome VALUES (1, ?, ?)", kept)

    def _payload(self) -> bytes:
        payload, checksum = self._db.execute("SELECT payload, checksum FROM outcome").fetchone()
        if xxhash.xxh3_64_digest(payload) != checksum:
            raise ValueError("the last result does not fit its checksum")
        return bytes(payload)

    def _open_files(self) -> tuple[RoundSnapshots, RunJournal]:
        row = self._db.execute("SELECT value FROM facts WHERE name = 'born'").fetchone()
        born = json.loads(row[0]) if row else ""
        try:
            ledger = RoundSnapshots(self._folder)
            try:
                return ledger, RunJournal(self._folder, born, self._identity["run_id"])
            except BaseException:
                ledger.close()
                raise
        except OSError as exc:
            self._db.close()
            raise RunFolderError(f"state folder {self._folder} cannot be used: {exc}; free the disk") from exc

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
            facts.append(("born", json.dumps(secrets.token_hex(8))))
            db.executemany("INSERT INTO facts VALUES (?, ?)", facts)

    def _identify(self, db: sqlite3.Connection) -> None:
        facts = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM facts")}
        for name, due in self._identity.items():
            if name not in facts:
                raise self._damaged(f"it does not say its {name}")
            if facts[name] != due:
                raise RunFolderError(
                    f"state folder {self._folder} belongs to another run: its {name} is {facts[name]}, expected {due}; "
                    f"give another folder with --state, or continue that run with its own configuration"
                )

    def _unwritable(self, exc: Exception) -> RunFolderError:
        return RunFolderError(
            f"state folder {self._folder} cannot be written: {exc}; the coordinator stops rather than close rounds "
            f"that it would forget: free the disk and start it again"
        )

    def _damaged(self, how: str) -> RunFolderError:
        return RunFolderError(
            f"the store in state folder {self._folder} is damaged: {how}; restore {FILE} from a copy, or start a new "
            f"run in another folder with --state: nothing is begun anew here unasked"
        )


def _described(outcome: Aggregation | None) -> dict[str, Any]:
    """An outcome without its bytes and its round, which is in the progress."""
    if outcome is None:
        return {}
    content, dtype = int(outcome.content), int(outcome.dtype)
    described = {"digest": outcome.digest.hex(), "content": content, "dtype": dtype, "peers": list(outcome.tensors)}
    return {"outcome": {**described, "round": outcome.settled.round}}


def _outcome(newest: Mapping[str, Any], payload: bytes) -> Aggregation | None:
    last = newest["course"]["last"]
    if not last:
        return None
    settled, described = SettledRound.from_json(last), newest["outcome"]
    if described["round"] != settled.round:
        raise ValueError(f"the result of round {settled.round} is missing")
    peers = described["peers"]
    size = len(payload) // len(peers) if peers else 0
    view = memoryview(payload)
    tensors = {peer: view[at * size : (at + 1) * size] for at, peer in enumerate(peers)}
    return Aggregation(settled, described["content"], bytes.fromhex(described["digest"]), described["dtype"], tensors)


def forget(state: Path) -> None:
    """Remove a store, if there is one: a run that is launched anew forms its group at the newest round all have saved.

    Args:
        state: its folder; whatever else lies there stays, the journal of what was before, too: the checkpoints that
            the run goes on from came about in those rounds.
    """
    for path in (*state.glob(f"{FILE}*"), *(state / name for name in FILES)):  # SQLite's log lies beside its file
        path.unlink(missing_ok=True)
