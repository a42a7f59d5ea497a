"""The exchange through a coordinator over gRPC: peers come, go and fail, and the others go on.

All that travels, reconnects and beats is `stream.StreamClient`; this is the contract of `base` on top of it, in
tensors. A worker that was expelled joins again by itself, under new incarnations, with the weights that it has.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from peers.exchange.base import Consensus, Ended, Exchange, Hello, Missed, Outcome, Pending, Report, Ticket
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.outcomes import (
    Admission,
    Expelled,
    Late,
    NoAnswerError,
    PeerWish,
    RoundResult,
    Void,
    WorkerInfo,
)
from peers.transport.outcomes import Ended as RunEnded
from peers.transport.outcomes import Outcome as StreamOutcome
from protos.tensors import Float32

LOOK = 1.0
"""Seconds between two looks at whether the worker was asked to stop."""

logger = logging.getLogger(__name__)


class CoordinatedExchange(Exchange):
    """One worker's view of a group that a coordinator keeps.

    Args:
        access: where the coordinator is, and what opens it.
        run: name of the run.
        device: where outputs live.
        join_window: seconds to try to reach the coordinator, and to wait for the others when leaving.
        shared_memory: use shared memory where the coordinator is on the same host.
        any_id: take whatever ids are free, instead of insisting on those of the hello.
        stopping: whether the worker was asked to stop; then it does not wait for a group that waits itself.
    """

    elastic = True

    def __init__(
        self,
        access: Access,
        run: str,
        device: torch.device,
        *,
        join_window: float,
        shared_memory: bool = True,
        any_id: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = StreamClient(access, shared=shared_memory)
        self._run, self._device, self._window = run, device, join_window
        self._any_id, self._stopping = any_id, stopping
        self._hello: Hello | None = None
        self._admission: Admission | None = None

    @property
    def shares_memory(self) -> bool:
        """Whether payloads go through shared memory at the moment."""
        return self._client.shares_memory

    def join(self, hello: Hello) -> Ticket:
        """See `Exchange.join`."""
        wishes = tuple(
            PeerWish(None if self._any_id else peer, 0, hello.saved.get(peer, ()) if not self._any_id else ())
            for peer in hello.peers
        )
        admission = self._admit(hello, wishes)
        self._hello = replace(hello, peers=admission.peers)
        incarnations = dict(zip(admission.peers, admission.incarnations, strict=True))
        return Ticket(admission.members, admission.first_round, admission.epoch, incarnations)

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        arrays = {peer: None if z is None else z.detach().cpu().numpy() for peer, z in outputs.items()}
        self._client.publish(round_, arrays, digest, leaving=leaving)
        return _CoordinatedPending(self, round_)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """See `Exchange.leave`; waits for the others' reports, at most the join window."""
        words = {peer: json.dumps(report).encode() for peer, report in reports.items()}
        said = self._client.leave(words, wait=self._window if any(reports.values()) else 0.0)
        return {peer: json.loads(word) for peer, word in said.items()}

    def close(self) -> None:
        """See `Exchange.close`."""
        self._client.close()

    def outcome(self, round_: int, timeout: float | None) -> Outcome:
        """What became of the publication for a round."""
        times = self._times
        patience = times.round_deadline + times.join_window if timeout is None else timeout
        now = time.monotonic()
        end = now + patience
        stop_by = float("inf")
        while True:
            try:
                found = self._client.result(max(0.0, min(LOOK, end - now)))
            except NoAnswerError as exc:
                now = time.monotonic()
                if self._stopping():
                    # The round may wait for members that never come back: a stopped worker gives it one deadline.
                    stop_by = min(stop_by, now + times.round_deadline + times.heartbeat)
                if now >= stop_by:
                    return Ended("asked to stop while the group waits for members")
                if now >= end:
                    raise NoAnswerError(exc.address, patience) from None
                continue
            return self._translated(round_, found)

    def _translated(self, round_: int, found: StreamOutcome) -> Outcome:
        if isinstance(found, RoundResult):
            return self._consensus(found)
        if isinstance(found, Late):
            return Missed(round_, "late", "it closed without this worker", found.next_round)
        if isinstance(found, Void):
            return Missed(round_, "void", found.reason, found.next_round)
        if isinstance(found, RunEnded):
            return Ended(found.reason)
        return self._rejoin(round_, found)

    @property
    def _times(self) -> Admission:
        if self._admission is None:
            raise RuntimeError("publish came before join")
        return self._admission

    def _admit(self, hello: Hello, wishes: tuple[PeerWish, ...]) -> Admission:
        self._admission = self._client.join(
            WorkerInfo(
                run_id=self._run,
                peers=wishes,
                shape=hello.shape,
                rule=hello.rule.name,
                wire=hello.wire,
                agreed=hello.agreed,
                insist=not self._any_id,
                window=self._window,
            )
        )
        return self._admission

    def _rejoin(self, round_: int, expelled: Expelled) -> Missed:
        """Join again, under the same ids and new incarnations."""
        if self._hello is None:
            raise RuntimeError("publish came before join")
        logger.warning("expelled: %s; joining again", expelled.reason)
        self._any_id = False
        admission = self._admit(self._hello, tuple(PeerWish(peer, 1) for peer in self._hello.peers))
        return Missed(round_, "expelled", expelled.reason, admission.first_round)

    def _consensus(self, result: RoundResult) -> Consensus:
        hello = self._hello
        if hello is None:
            raise RuntimeError("result came before join")
        sources = {} if hello.rule.kind == "sum" else hello.rule.sources(result.round, result.group)
        return Consensus(
            round=result.round,
            epoch=result.epoch,
            contributors=result.contributors,
            total=None if result.total is None else self._tensor(result.total),
            sent=self._tensors(result.sent),
            members=self._tensors(result.members),
            sources={peer: sources[peer] for peer in hello.peers if peer in sources},
            leaving=result.leaving,
            aggregate=None if result.aggregate is None else self._tensor(result.aggregate),
            digest=result.digest.hex(),
        )

    def _tensors(self, arrays: Mapping[int, Float32]) -> dict[int, Tensor]:
        return {peer: self._tensor(values) for peer, values in arrays.items()}

    def _tensor(self, values: Float32) -> Tensor:
        """The values themselves on a CPU, unless they lie in what gRPC received, which is not to be written to."""
        tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
        return tensor if self._device.type == "cpu" else tensor.to(self._device)


class _CoordinatedPending(Pending):
    def __init__(self, exchange: CoordinatedExchange, round_: int) -> None:
        self._exchange, self._round = exchange, round_

    def result(self, timeout: float | None = None) -> Outcome:
        return self._exchange.outcome(self._round, timeout)
