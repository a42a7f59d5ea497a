"""Target `service`: whatever strangers and members send, in whatever order, and three honest members beside them.

The bytes decide on calls, on their fields, and on how much time passes between them. After each of them nothing may
have failed; in the end the honest members' rounds must still be closing, and nothing may be kept for those that left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from coordinator.service.settings import ServiceSettings
from peers.method.target_selection import TargetSelection
from peers.transport.lane import laid
from peers.transport.shared_memory import Segment
from protos import consensus_pb2 as pb
from protos.frames import decode, encode
from tests.fuzz.honest import SHAPE, Honest, joining, publication
from tests.fuzz.reader import Reader
from tests.fuzz.simulated import TICK, TOKEN, Context, Lane, Loop, Service

HONEST = 3
"""A majority: of the five peers that fit, those under attack can have two."""
MAX_PEERS = 5
STEPS = 48
METHODS = ("Join", "Heartbeat", "Leave", "GetStatus", "WatchStatus", "Reports")
SETTINGS = ServiceSettings(
    run_id="run",
    state="unused",
    rule=TargetSelection("mean", 0),
    rounds=10**6,
    shape=SHAPE,
    group=HONEST,
    max_peers=MAX_PEERS,
    heartbeat=5.0,
    round_deadline=10.0,
    join_window=20.0,
    token=TOKEN,
    joins_per_minute=10**6,
    report_bytes=64,
)


def once(data: bytes) -> None:
    """One input."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_attack(Reader(data)))


async def _attack(reader: Reader) -> None:
    service = Service(SETTINGS)
    honest = [Honest(service, index) for index in range(HONEST)]
    attacker = Attacker(service, reader)
    try:
        await _until(honest, 1, 1.0)
        for _ in range(STEPS):
            if not reader.more:
                break
            await attacker.step()
            await asyncio.sleep(0)
            service.check()
        if not attacker.stopped:
            await _until(honest, 1 + max(each.closed for each in honest), 3 * SETTINGS.round_deadline)
        attacker.end()
        await asyncio.sleep(SETTINGS.heartbeat + 3 * TICK)
        service.check()
        _nothing_kept(service, attacker)
    finally:
        attacker.end()
        for each in honest:
            each.life.cancel()
        await service.close()


async def _until(honest: list[Honest], rounds: int, seconds: float) -> None:
    """Wait until all honest members have seen so many rounds close."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while min(each.closed for each in honest) < rounds:
        for each in honest:
            assert not each.ended, f"an honest member was told {each.ended}"
            if each.life.done():
                each.life.result()
        assert loop.time() < end, f"no round closed in {seconds} s"
        await asyncio.sleep(0.25)


def _nothing_kept(service: Service, attacker: Attacker) -> None:
    """What the attacker made is gone: it ended its streams and was silent for long enough."""
    hub = service.hub
    assert attacker.stopped or len(hub.group.membership.workers) == HONEST
    assert len(service.streams._sessions) <= HONEST
    assert len(hub.pending._waiters) <= HONEST
    assert not service.lanes._standing
    assert service.lanes.strangers == 0
    assert len(service.lanes._offers) <= HONEST
    assert len(hub.reports) <= MAX_PEERS
    assert sum(map(len, hub.reports.values())) <= MAX_PEERS * SETTINGS.report_bytes


class Worker:
    """One of the attacker's: a ticket, perhaps a stream, perhaps a segment and a lane."""

    def __init__(self, ticket: pb.Ticket) -> None:
        self.ticket = ticket
        self.context: Context | None = None
        self.segment: Segment | None = None
        self.key = b""
        self.lane: Lane | None = None

    def listen(self) -> None:
        """Take what has come on the stream; the key of a lane is remembered."""
        while self.context is not None and not self.context.outgoing.empty():
            frame = decode(self.context.outgoing.get_nowait(), 10**6)
            if frame.kind == "attached":
                self.key = frame.header.attached.key


class Attacker:
    """Does what the bytes say.

    Args:
        service: whom to.
        reader: of the bytes.
    """

    def __init__(self, service: Service, reader: Reader) -> None:
        self.stopped = False
        self._service = service
        self._reader = reader
        self._workers: list[Worker] = []
        self._streams: list[Context] = []
        self._requests = 0
        self._tasks: list[asyncio.Future[None]] = []
        self._steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self._wait,
            self._join,
            self._open,
            self._publish,
            self._publish,
            self._frame,
            self._bytes,
            self._beat,
            self._leave,
            self._close,
            self._raw,
            self._watch,
            self._share,
            self._lane,
            self._stop,
        )

    async def step(self) -> None:
        """The next thing."""
        await self._steps[self._reader.below(len(self._steps))]()
        for worker in self._workers:
            worker.listen()
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.remove(task)
            task.result()

    def end(self) -> None:
        """Go away without a word."""
        for task in self._tasks:
            task.cancel()
        for context in self._streams:
            context.serving.cancel()  # type: ignore[attr-defined]
        for worker in self._workers:
            self._hang_up(worker)
            if worker.segment is not None:
                worker.segment.close()
                worker.segment = None

    def _worker(self) -> Worker | None:
        return self._workers[self._reader.below(len(self._workers))] if self._workers else None

    def _secret(self, bearer: str | None) -> str | None:
        return (bearer, bearer, bearer, bearer, TOKEN, None, "guessed")[self._reader.below(7)]

    async def _wait(self) -> None:
        await asyncio.sleep(self._reader.below(256) / 16)

    async def _call(self, name: str, body: Any, secret: str | None) -> list[Any]:
        sent = body if isinstance(body, bytes) else body.SerializeToString()
        return await self._service.call(f"/consensus.Coordinator/{name}", sent, secret)

    async def _join(self) -> None:
        reader = self._reader
        self._requests += 0 if reader.flag() else 1
        request = joining(None, b"attacker" + self._requests.to_bytes(8, "little"))
        del request.peers[:]
        for _ in range(1 + reader.below(3)):
            wish = request.peers.add(incarnation=reader.small(), absent=reader.flag())
            if reader.flag():
                wish.index = reader.small()
            if reader.flag():
                wish.saved.extend(reader.number() for _ in range(reader.below(4)))
        request.insist = reader.flag()
        if reader.flag():
            request.agreed[reader.chunk().decode("latin-1")] = "any"
        if reader.flag():
            request.name = reader.chunk().decode("latin-1")
        for reply in await self._call("Join", request, TOKEN if not reader.flag() else self._secret(None)):
            if reply.code == pb.OK:
                self._workers.append(Worker(reply.ticket))

    async def _open(self) -> None:
        worker = self._worker()
        if worker is not None:
            worker.context = await self._service.stream(self._secret(worker.ticket.bearer))
            self._streams.append(worker.context)
            if not self._reader.flag():
                await self._say(worker, pb.FrameHeader(attach=pb.Attach(pending=self._reader.flag())))

    async def _publish(self) -> None:
        worker, reader = self._worker(), self._reader
        if worker is None:
            return
        rounds = self._service.hub.group.rounds
        current = rounds.current
        opened = pb.Next(round=rounds.upcoming, epoch=current.epoch if current else 0)
        if reader.flag():
            opened.round = (reader.number() + rounds.upcoming - 2) % 2**64
        header = publication(opened, sorted(worker.ticket.peers))
        said = header.publish
        said.leaving = reader.flag()
        if reader.flag():
            said.epoch = reader.small()
        if reader.flag():
            said.batch = reader.chunk()
        if reader.flag():
            for name in ("peers", "abstains", "absent"):
                said.ClearField(name)
                getattr(said, name).extend(peer for peer in worker.ticket.peers if reader.flag())
        if reader.flag():
            header.rows, header.columns, header.dtype = reader.small(), reader.small(), reader.below(5)
        value = reader.take(4) if reader.flag() else b"\0\0\x80\x3f"
        await self._say(worker, header, value * 4 if said.peers else b"")

    async def _frame(self) -> None:
        worker, reader = self._worker(), self._reader
        kinds = (
            pb.FrameHeader(part=pb.Part(offset=reader.number())),
            pb.FrameHeader(attach=pb.Attach(pending=reader.flag())),
            pb.FrameHeader(attached=pb.Attached(shared=True)),
            pb.FrameHeader(result=pb.Result(round=reader.below(9))),
            pb.FrameHeader(publish=pb.Publish(), in_shared=True, payload=reader.number(), shared_at=reader.number()),
        )
        if worker is not None:
            await self._say(worker, kinds[reader.below(len(kinds))], reader.chunk())

    async def _bytes(self) -> None:
        worker = self._worker()
        if worker is not None and worker.context is not None:
            worker.context.incoming.put_nowait(self._reader.chunk())

    async def _beat(self) -> None:
        worker = self._worker()
        if worker is not None:
            absent = self._reader.numbers() if self._reader.flag() else ()
            await self._call("Heartbeat", pb.HeartbeatRequest(absent=absent), self._secret(worker.ticket.bearer))

    async def _leave(self) -> None:
        worker, reader = self._worker(), self._reader
        if worker is None:
            return
        request = pb.LeaveRequest(more=reader.flag(), wait=reader.below(256) / 8 if reader.flag() else 0.0)
        for peer in worker.ticket.peers:
            if reader.flag():
                request.reports[peer if not reader.flag() else reader.small()] = reader.chunk()
        leaving = self._call("Leave", request, self._secret(worker.ticket.bearer))
        self._tasks.append(asyncio.ensure_future(self._forgotten(leaving)))
        await asyncio.sleep(0)

    @staticmethod
    async def _forgotten(call: Awaitable[list[Any]]) -> None:
        await call

    async def _close(self) -> None:
        worker = self._worker()
        if worker is None or worker.context is None:
            return
        if self._reader.flag():
            self._hang_up(worker)
        else:
            worker.context.incoming.put_nowait(grpc.aio.EOF)

    async def _raw(self) -> None:
        worker = self._worker()
        name = METHODS[self._reader.below(len(METHODS))]
        await self._call(name, self._reader.chunk(), self._secret(worker.ticket.bearer if worker else None))

    async def _watch(self) -> None:
        watching = self._call("WatchStatus", pb.WatchRequest(interval=self._reader.below(4) - 1.0), TOKEN)
        self._tasks.append(asyncio.ensure_future(self._forgotten(watching)))

    async def _share(self) -> None:
        """Offer shared memory, or what is none."""
        worker, reader = self._worker(), self._reader
        if worker is None or worker.context is None:
            return
        if worker.segment is not None:
            worker.segment.close()
        worker.segment, nonce = Segment.create(32, 64)
        offer = pb.SharedOffer(name=worker.segment.name, up=32, down=64, nonce=nonce)
        if reader.flag():
            offer.up, offer.down = reader.number(), reader.number()
        if reader.flag():
            offer.nonce = reader.chunk()
        if reader.flag():
            offer.name = reader.chunk().decode("latin-1")
        await self._say(worker, pb.FrameHeader(attach=pb.Attach(shared=offer, pending=reader.flag())))
        await asyncio.sleep(0)
        worker.segment.unlink()

    async def _lane(self) -> None:
        """Bytes on a lane, a new one or the one that stands: messages with their lengths, or anything."""
        worker, reader = self._worker(), self._reader
        if worker is None:
            return
        if worker.lane is None or reader.flag():
            worker.lane = Lane(self._service.lanes)
            worker.lane.say(laid([[worker.key if not reader.flag() else reader.chunk()]]))
        if reader.flag():
            worker.lane.say(reader.chunk())
        elif reader.flag():
            worker.lane.close()
            worker.lane = None
        else:
            rounds = self._service.hub.group.rounds
            epoch = rounds.current.epoch if rounds.current else 0
            header = publication(pb.Next(round=rounds.upcoming, epoch=epoch), sorted(worker.ticket.peers))
            payload = [reader.chunk() or bytes(16)]
            if reader.flag():
                header.in_shared, header.payload, payload = True, reader.below(64), []
                header.shared_at = reader.below(64) if reader.flag() else reader.number()
            worker.lane.say(laid([encode(header, payload)]) * (1 + reader.below(3)))

    async def _stop(self) -> None:
        secret = self._secret("guessed")
        self.stopped = self.stopped or secret == TOKEN
        await self._call("Stop", pb.StopRequest(reason=self._reader.chunk().decode("latin-1")), secret)

    async def _say(self, worker: Worker, header: pb.FrameHeader, *payload: bytes) -> None:
        if worker.context is not None:
            for message in encode(header, [part for part in payload if part]):
                worker.context.incoming.put_nowait(message)
            await asyncio.sleep(0)

    @staticmethod
    def _hang_up(worker: Worker) -> None:
        if worker.context is not None:
            worker.context.serving.cancel()  # type: ignore[attr-defined]
        if worker.lane is not None:
            worker.lane.close()
            worker.lane = None
