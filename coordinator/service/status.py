"""Status of a run: what GetStatus answers."""

from __future__ import annotations

import time

from coordinator.service.hub import Hub
from coordinator.service.membership import WorkerRecord
from coordinator.service.streams import Streams
from protos.consensus_pb2 import StatusReply, WorkerStatus


def status(hub: Hub, streams: Streams) -> StatusReply:
    """The state of a run, now."""
    group, metrics, now = hub.group, hub.metrics, hub.clock()
    current = group.rounds.current
    return StatusReply(
        run_id=hub.settings.run_id,
        phase=group.phase,
        text=group.text,
        round=group.rounds.upcoming,
        rounds=hub.settings.rounds,
        epoch=group.membership.epoch,
        workers=[_worker(hub, streams, worker, now) for worker in group.membership.workers.values()],
        closed=metrics.closed,
        voided=metrics.voided,
        open_for=now - current.opened if current else 0.0,
        refused=metrics.refusals,
        expelled=hub.pending.expulsions,
        round_seconds=metrics.last_seconds,
        unix_time=time.time(),
        heartbeat=hub.settings.heartbeat,
        round_deadline=hub.settings.round_deadline,
        join_window=hub.settings.join_window,
        upstream=hub.upstream,
    )


def _worker(hub: Hub, streams: Streams, worker: WorkerRecord, now: float) -> WorkerStatus:
    current = hub.group.rounds.current
    return WorkerStatus(
        worker=worker.number,
        name=worker.name,
        peers=worker.peers,
        incarnations=worker.incarnations,
        state="member" if worker.member else "joining",
        connected=worker.down is None,
        shared_memory=streams.uses_shared(worker.number),
        silent=now - worker.heard,
        rounds=worker.rounds,
        missed=worker.missed,
        refused=worker.refused,
        waited_for=worker.waited_for,
        published=current is not None and worker.number in current.publications,
        absent=worker.absent,
    )
