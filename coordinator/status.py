"""What `coordinator status` shows: the state of a run as a table, as JSON, or as a picture that renews itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Group
from rich.table import Table
from rich.text import Text

from peers.common.errors import ExchangeError
from peers.transport.access import Access
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub

PATIENCE = 10.0
"""Seconds that a call may take."""

PHASES = {pb.FORMING: "forming", pb.RUNNING: "running", pb.WAITING: "waiting", pb.OVER: "over"}


def current(access: Access) -> pb.StatusReply:
    """The state of a run, now.

    Raises:
        ExchangeError: the coordinator cannot be reached, or does not accept this caller.
    """
    reply: pb.StatusReply = _call(
        access, lambda stub: stub.GetStatus(pb.StatusRequest(), metadata=access.metadata(), timeout=PATIENCE)
    )
    return reply


def watched(access: Access, interval: float = 0.5) -> Iterator[pb.StatusReply]:
    """The state of a run, again whenever it changed, until the coordinator ends.

    Raises:
        ExchangeError: as `current`; not when the coordinator ends.
    """
    yield current(access)
    with access.channel() as channel:
        stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
        stream = stub.WatchStatus(pb.WatchRequest(interval=interval), metadata=access.metadata())
        try:
            yield from stream
        except grpc.RpcError as exc:
            if _code(exc) not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise _error(access, exc) from exc


def stop(access: Access, reason: str) -> None:
    """End a run, for all its peers.

    Raises:
        ExchangeError: as `current`.
    """
    request = pb.StopRequest(reason=reason)
    _call(access, lambda stub: stub.Stop(request, metadata=access.metadata(), timeout=PATIENCE))


def as_json(status: pb.StatusReply) -> dict[str, Any]:
    """A status as JSON values, every field present."""
    values: dict[str, Any] = MessageToDict(
        status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return values


def picture(status: pb.StatusReply) -> Group:
    """A status for a reader: the run in two lines, then a row for each worker, and what it cost the others."""
    head = f"run {status.run_id}: {PHASES.get(status.phase, 'unknown')}"
    if status.text:
        head += f" ({status.text})"
    if status.upstream:
        head += f"; a relay of {status.upstream}"
    line = (
        f"round {status.round} of {status.rounds}, epoch {status.epoch}; {status.closed} closed, {status.voided} void, "
        f"last round {1000 * status.round_seconds:.0f} ms"
    )
    table = Table("peers", "incarnation", "state", "rounds", "missed", "refused", "waited for", "silent", "name")
    for worker in status.workers:
        table.add_row(
            ", ".join(map(str, worker.peers)),
            ", ".join(map(str, worker.incarnations)),
            _state(worker),
            str(worker.rounds),
            str(worker.missed),
            str(worker.refused),
            f"{worker.waited_for:.2f} s",
            f"{worker.silent:.1f} s",
            worker.name,
        )
    lost = [Text(f"expelled: {text}") for text in status.expelled]
    return Group(Text(head), Text(line), table, *lost)


def _state(worker: pb.WorkerStatus) -> str:
    words = [worker.state, *["cut off"] * (not worker.connected), *["shared memory"] * worker.shared_memory]
    if worker.absent:
        words.append(f"nobody holds {', '.join(map(str, worker.absent))}")
    return ", ".join(words)


def _call(access: Access, call: Callable[[Any], Any]) -> Any:
    with access.channel() as channel:
        stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
        try:
            return call(stub)
        except grpc.RpcError as exc:
            raise _error(access, exc) from exc


def _error(access: Access, exc: grpc.RpcError) -> ExchangeError:
    if _code(exc) == grpc.StatusCode.UNAUTHENTICATED:
        if access.token is not None:
            return ExchangeError(
                f"the coordinator at {access.address} does not accept this token: give the one it was started with"
            )
        return ExchangeError(f"the coordinator at {access.address} asks for the group's token: --token-file FILE")
    if _code(exc) == grpc.StatusCode.UNAVAILABLE:
        details = exc.details() if isinstance(exc, grpc.Call) else exc
        return ExchangeError(f"the coordinator cannot be reached: {access.diagnose()[0]} ({details})")
    return ExchangeError(f"the coordinator at {access.address} answered {exc}")


def _code(exc: grpc.RpcError) -> Any:
    return exc.code() if isinstance(exc, grpc.Call) else None
