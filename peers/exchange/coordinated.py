"""Exchange through a coordinator over gRPC: peers come, go and fail, and the others go on.

`StreamClient` does the work: it sends, reconnects and beats. This class turns tensors into arrays and back. A worker
that was expelled joins again by itself, under new incarnations, with the weights that it has.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from peers.exchange.base import Exchange, Hello, Outcome, Pending, Report
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.replies import NoAnswerError
from peers.transport.values import Consensus, Expelled, Missed, PeerWish, RunEnded, Ticket, WorkerInfo
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
        ticket = self._admitted(hello, wishes)
        self._hello = replace(hello, peers=ticket.peers)
        return ticket

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        arrays = {peer: None if z is None else z.detach().cpu().numpy() for peer, z in outputs.items()}
        self._client.publish(round_, arrays, digest, leaving=leaving)
        return _CoordinatedPending(self, round_)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """See `Exchange.leave`; waits for the others' reports, at most the join window."""
        own = {peer: json.dumps(report).encode() for peer, report in reports.items()}
        everyone = self._client.leave(own, wait=self._window if any(reports.values()) else 0.0)
        return {peer: json.loads(report) for peer, report in everyone.items()}

    def close(self) -> None:
        """See `Exchange.close`."""
        self._client.close()

    def outcome(self, round_: int, timeout: float | None) -> Outcome:
        """What became of the publication for a round."""
        patience = self._client.patience if timeout is None else timeout
        now = time.monotonic()
        end, stop_by = now + patience, math.inf
        while True:
            try:
                outcome = self._client.result(max(0.0, min(LOOK, end - now)))
                break
            except NoAnswerError as exc:
                now = time.monotonic()
                if self._stopping():
                    # The round may wait for members that never come back: a stopped worker gives it one deadline.
                    stop_by = min(stop_by, now + self._client.stopping_patience)
                if now >= stop_by:
                    return RunEnded("asked to stop while the group waits for members")
                if now >= end:
                    raise NoAnswerError(exc.address, patience) from None
        if isinstance(outcome, Consensus):
            hello = self._joined()
            return outcome.converted(self._tensor, hello.rule.sources_of(hello.peers, outcome.round, outcome.group))
        return self._rejoin(round_, outcome) if isinstance(outcome, Expelled) else outcome

    def _joined(self) -> Hello:
        if self._hello is None:
            raise RuntimeError("publish came before join")
        return self._hello

    def _admitted(self, hello: Hello, wishes: tuple[PeerWish, ...]) -> Ticket:
        return self._client.join(
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

    def _rejoin(self, round_: int, expelled: Expelled) -> Missed:
        """Join again, under the same ids and new incarnations."""
        hello = self._joined()
        logger.warning("expelled: %s; joining again", expelled.text)
        self._any_id = False
        ticket = self._admitted(hello, tuple(PeerWish(peer, 1) for peer in hello.peers))
        return Missed(round_, "expelled", expelled.text, ticket.first_round)

    def _tensor(self, values: Float32) -> Tensor:
        """The values themselves on a CPU, unless they lie in what gRPC received, which is not to be written to."""
        tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
        return tensor if self._device.type == "cpu" else tensor.to(self._device)


@dataclass(frozen=True)
class _CoordinatedPending(Pending):
    exchange: CoordinatedExchange
    round: int

    def result(self, timeout: float | None = None) -> Outcome:
        return self.exchange.outcome(self.round, timeout)
