"""State machine of a run: rounds and membership together. Pure; every call carries the clock.

    FORMING --enough peers have joined, or the join window ended with the minimum--> RUNNING
    RUNNING --fewer peers than the minimum are left--> WAITING --newcomers--> RUNNING
    any     --last round closed, nobody came in time, stopped--> OVER

Calls change the state at once and append to `events` what has happened, in order; the driver takes them (`take`), makes
them last, and only then lets anybody know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from coordinator.service.membership import DepartedWorker, Membership, PeerRequest, WorkerRecord
from coordinator.service.rounds import OpenRound, Publication, Rounds, SettledRound
from coordinator.service.settings import ServiceSettings
from protos.consensus_pb2 import (
    BATCH_MISMATCH,
    ENDED,
    EXPELLED,
    FORMING,
    FUTURE,
    LATE,
    OK,
    OVER,
    RUNNING,
    VOID,
    WAITING,
    Phase,
    ReplyCode,
)

COMPLETE = "complete"
PATIENT = frozenset({OK, LATE, VOID})
"""Answers that are nobody's fault; all others count as refusals of the publication."""


@dataclass(frozen=True)
class GroupEnded:
    """The run is over; `text` says why."""

    text: str


Event: TypeAlias = OpenRound | SettledRound | DepartedWorker | GroupEnded


class NotOpenYet:
    """A publication for the round that opens next: its answer is that the round has opened, and it comes again."""


Verdict: TypeAlias = ReplyCode | SettledRound | NotOpenYet


class Group:
    """The group of one run.

    Args:
        settings: the operator's.
        now: the clock, seconds; the join window starts here.
    """

    def __init__(self, settings: ServiceSettings, now: float) -> None:
        self._settings = settings
        self.rounds = Rounds(settings.min_peers, settings.quorum, settings.round_deadline)
        self.membership = Membership(settings.heartbeat, settings.ids, settings.max_refused, settings.max_missed)
        self.phase: Phase = FORMING
        self.text = ""
        self.since = now
        """When the phase began."""
        self.events: list[Event] = []
        self._describe()

    def take(self) -> list[Event]:
        """What has happened since the last call."""
        events, self.events = self.events, []
        return events

    def join(
        self, wishes: Sequence[PeerRequest], *, name: str, bearer: str, request: str, insist: bool, now: float
    ) -> WorkerRecord | tuple[ReplyCode, str]:
        """Take in a newcomer: a member from the next round on that opens while its stream stands."""
        if self.phase == OVER:
            return ENDED, self.text
        return self.membership.join(wishes, name=name, bearer=bearer, request=request, insist=insist, now=now)

    def attach(self, worker: int, now: float) -> None:
        """A worker's stream stands."""
        self.membership.attach(worker, now)
        self._advance(now)

    def detach(self, worker: int, now: float) -> None:
        """A worker's stream broke."""
        self.membership.detach(worker, now)

    def offer(self, publication: Publication, now: float) -> Verdict:
        """Take a publication, as `Rounds.offer` does; NotOpenYet where its round has not opened for its worker."""
        number = publication.worker
        gone = self.membership.gone.get(number)
        code = self.rounds.offer(publication, now)
        if isinstance(code, SettledRound):
            return code
        if self.phase == OVER:
            return ENDED
        if gone is not None or number not in self.membership.workers:  # gone so long that it is forgotten
            return EXPELLED
        self.membership.beat(number, now)
        self.membership.workers[number].absent = publication.absent
        open_here = self.rounds.current is not None and number in self.rounds.current.present
        if code in (FUTURE, LATE) and publication.round == self.rounds.upcoming and not open_here:
            return NotOpenYet()
        if code in PATIENT:
            self._advance(now)
        else:
            self.refuse(number, now)
        return code

    def set_absent(self, worker: int, absent: Iterable[int], now: float) -> None:
        """A worker says which of its ids no peer holds now; while a round is open its publications say so."""
        if worker in self.membership.workers and self.phase in (FORMING, WAITING):
            record = self.membership.workers[worker]
            record.absent = tuple(sorted(set(absent).intersection(record.peers)))
            self._advance(now)

    def refuse(self, worker: int, now: float) -> None:
        """Count a publication that was refused, here or at the gate; one too many expels its worker."""
        if worker not in self.membership.workers:
            return
        self.membership.beat(worker, now)
        reason = self.membership.refused(worker)
        if reason is not None:
            self.expel(worker, reason)
        self._advance(now)

    def leave(self, worker: int, now: float) -> None:
        """A worker goes by its own wish."""
        if worker in self.membership.workers:
            self._remove(worker, "it left", left=True)
            self._advance(now)

    def expel(self, worker: int, reason: str) -> None:
        """Take a worker out against its wish."""
        self._remove(worker, reason, left=False)

    def stop(self, reason: str, now: float) -> None:
        """End the run; the open round is void."""
        if self.phase != OVER:
            self._end(f"stopped: {reason}" if reason else "stopped", now)

    def tick(self, now: float) -> None:
        """Let time pass: expulsions, deadlines, windows."""
        for worker, reason in self.membership.overdue(now, streams=self.phase != OVER).items():
            self.expel(worker, reason)
        self._advance(now)
        window = self._settings.join_window
        if self.phase == FORMING and now - self.since >= window:
            self._open(now, self._settings.min_peers)
        if self.phase in (FORMING, WAITING) and now - self.since >= window:
            there = self.membership.peers()
            self._end(f"{there} peers after {window} s, at least {self._settings.min_peers} are needed", now)

    def _advance(self, now: float) -> None:
        """Settle what is due, and open what can be, until nothing is left to do."""
        while self.phase != OVER:
            settled = self.rounds.settle(now)
            if settled is not None:
                self._account(settled)
                if self.rounds.upcoming >= self._settings.rounds:
                    self._end(COMPLETE, now)
                    return
            if self.rounds.current is not None:
                return
            self._open(now, self._settings.group if self.phase == FORMING else self._settings.min_peers)
            if self.rounds.current is None:
                return

    def _open(self, now: float, needed: int) -> None:
        """Open the next round if there are enough peers; otherwise the group waits."""
        if self.membership.peers() < needed:
            if self.phase == RUNNING:
                self.phase, self.since = WAITING, now
            self._describe()
            return
        self.membership.admit()
        if self.phase == FORMING:
            self._start()
            if self.rounds.upcoming >= self._settings.rounds:
                self._end(COMPLETE, now)
                return
        self.phase, self.since, self.text = RUNNING, now, ""
        members, absent = self.membership.members(), self.membership.absent()
        self.events.append(self.rounds.open(self.rounds.upcoming, self.membership.epoch, members, now, absent))

    def _start(self) -> None:
        """A group that forms starts at the newest round that all of its peers have saved."""
        saved = [set(worker.saved) for worker in self.membership.workers.values() if worker.member]
        self.rounds.upcoming, self.rounds.last = max(set.intersection(*saved)), None

    def _account(self, settled: SettledRound) -> None:
        """What a settled round means for its workers: counts, expulsions, departures."""
        self.events.append(settled)
        workers = self.membership.workers
        reasons: dict[int, str | None] = {}
        for number, code in settled.answers.items():
            if number in workers and code == OK:
                self.membership.contributed(number)
            elif number in workers and code == BATCH_MISMATCH:
                reasons[number] = self.membership.refused(number)
        for number in set(settled.missed) & workers.keys():
            reasons[number] = self.membership.missed(number, settled.waited.get(number, 0.0))
        for number, waited in settled.waited.items():
            if number in workers:
                workers[number].waited_for += waited
        for number, reason in reasons.items():
            if reason is not None:
                self.expel(number, reason)
        for number in set(settled.leaving) & workers.keys():
            self._remove(number, "it left", left=True)

    def _remove(self, worker: int, reason: str, *, left: bool) -> None:
        self.rounds.remove(worker)
        self.events.append(self.membership.remove(worker, reason, left=left))

    def _end(self, text: str, now: float) -> None:
        settled = self.rounds.void(f"the run ended: {text}", now)
        if settled is not None:
            self.events.append(settled)
        self.phase, self.since, self.text = OVER, now, text
        self.events.append(GroupEnded(text))

    def _describe(self) -> None:
        there, needed = self.membership.peers(), self._settings.min_peers
        if self.phase == FORMING:
            self.text = f"{there} of {self._settings.group} peers have joined"
        elif self.phase == WAITING:
            self.text = f"{there} peers are left, at least {needed} are needed; newcomers are welcome"

    # What survives the coordinator's own death.

    def progress_state(self) -> dict[str, Any]:
        """A JSON object of what changes with each round."""
        current, last = self.rounds.current, self.rounds.last
        opened = (current.round, current.epoch, sorted(current.members.items())) if current else None
        return {
            "phase": int(self.phase),
            "text": self.text,
            "upcoming": self.rounds.upcoming,
            "open": opened,
            "last": last.as_json() if last else None,
        }

    def membership_state(self) -> dict[str, Any]:
        """A JSON object of who belongs to the group; changes with `membership.version`."""
        membership = self.membership
        return {
            "epoch": membership.epoch,
            "numbers": membership.numbers,
            "workers": [worker.as_json() for worker in membership.workers.values()],
            "gone": [vars(gone) for gone in membership.gone.values()],
            "incarnations": sorted(membership.incarnations.items()),
        }

    def restore(self, progress: Mapping[str, Any], membership: Mapping[str, Any], now: float) -> None:
        """Continue from what `progress_state` and `membership_state` gave.

        Streams are down, and the open round has no publications. A run that ended before its last round (stopped, or
        left alone) forms anew.
        """
        self.membership.epoch, self.membership.numbers = membership["epoch"], membership["numbers"]
        self.membership.incarnations = dict(membership["incarnations"])
        self.membership.gone = {
            kept["number"]: DepartedWorker(**{**kept, "peers": tuple(kept["peers"])}) for kept in membership["gone"]
        }
        self.rounds.upcoming = progress["upcoming"]
        self.rounds.last = SettledRound.from_json(progress["last"]) if progress["last"] else None
        phase = progress["phase"]
        if phase == OVER and progress["text"] != COMPLETE:
            return
        self.membership.workers = {kept["number"]: WorkerRecord.from_json(kept, now) for kept in membership["workers"]}
        self.membership.forgive(self._settings.heartbeat)  # one period more, to find the coordinator again
        self.phase, self.text, self.since = phase, progress["text"], now
        if progress["open"]:
            round_, epoch, members = progress["open"]
            hosted = {number: tuple(peers) for number, peers in members}
            opened = self.rounds.open(round_, epoch, hosted, now, self.membership.absent())
            opened.present.intersection_update(self.membership.workers)
            self.events.append(opened)
