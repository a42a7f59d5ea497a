"""How each kind of fault is done from outside, and what has to come true after it.

A kind is a generator: it does something, yields what it waits for, goes on when that is true, and ends when the group
is as it was before. So faults run one after the other, or several at a time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from peers.transport.access import Access
from protos.consensus_pb2 import Attach, FrameHeader
from protos.frames import encode
from tests.faults.faulty_exchange import Fault
from tests.faults.group import Group
from tests.faults.processes import Processes
from tests.faults.worker import STOLEN, beside, held

Course = Iterator[Callable[[], object]]
"""What is waited for, one after the other."""


def course(group: Group, fault: Fault) -> Course:
    """The course of a fault."""
    return COURSES[fault.kind](group, fault)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _ended(group: Group, peer: int) -> Callable[[], bool]:
    process = group.workers[peer].process
    return lambda: process.poll() is not None


def _again(group: Group, peer: int) -> Course:
    """Start a worker again, as a launcher does: from its own checkpoint."""
    running = group.start(peer, "--resume", "auto")
    yield from _stands(group, peer, running.process.poll)


def _stands(group: Group, peer: int, ended: Callable[[], int | None] = lambda: None) -> Course:
    """Until a peer stands.

    Raises:
        AssertionError: its process has ended instead.
    """

    def stands() -> bool:
        code = ended()
        assert code is None, f"peer {peer} ended with {code}: {group.workers[peer].output.read_text()}"
        return peer in group.standing()

    yield stands


def _rejoined(group: Group, peer: int, number: int) -> Callable[[], bool]:
    """Whether a peer has a membership other than the one that it had."""
    return lambda: group.standing().get(peer, number) != number


def sigkill(group: Group, fault: Fault) -> Course:
    """Killed; it comes back with the weights that it had saved."""
    group.workers[fault.peer].process.kill()
    yield _ended(group, fault.peer)
    yield from _again(group, fault.peer)


def sigterm(group: Group, fault: Fault) -> Course:
    """Told to go: it ends its round, saves, leaves; and comes back."""
    group.workers[fault.peer].process.send_signal(signal.SIGTERM)
    yield _ended(group, fault.peer)
    code, output = group.workers[fault.peer].wait()
    assert code == 0, output
    yield from _again(group, fault.peer)


def sigstop(group: Group, fault: Fault) -> Course:
    """Stopped; for so long, or until it is expelled. Then it goes on, joining again where it must."""
    number = group.standing()[fault.peer]
    group.workers[fault.peer].process.send_signal(signal.SIGSTOP)
    yield from _wakes(group, fault, number)


def stop(group: Group, fault: Fault) -> Course:
    """The same, by its own hand."""
    number = group.standing()[fault.peer]
    process = group.workers[fault.peer].process
    group.hand(fault)
    yield lambda: group.has_fired(fault) and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    yield from _wakes(group, fault, number)


def _wakes(group: Group, fault: Fault, number: int) -> Course:
    process = group.workers[fault.peer].process
    yield _after(fault.seconds) if fault.seconds else lambda: fault.peer not in group.places()
    process.send_signal(signal.SIGCONT)
    if not fault.seconds:
        yield _rejoined(group, fault.peer, number)
    yield from _stands(group, fault.peer, process.poll)


def replaced(group: Group, fault: Fault) -> Course:
    """Killed for good; a newcomer takes whatever place is free, which is this one."""
    group.workers[fault.peer].process.kill()
    yield _ended(group, fault.peer)
    yield lambda: fault.peer not in group.places()
    group.workers[fault.peer] = group.spawn(fault.peer)
    yield from _stands(group, fault.peer, group.workers[fault.peer].process.poll)


def ends(group: Group, fault: Fault) -> Course:
    """The worker ends by what it does itself; it comes back."""
    group.hand(fault)
    yield lambda: group.has_fired(fault)
    yield _ended(group, fault.peer)
    assert group.workers[fault.peer].process.poll() != 0
    yield from _again(group, fault.peer)


def out_of_memory(group: Group, fault: Fault) -> Course:
    """The kernel ends it, and counts that it did."""
    limit = group.limit(fault.peer)
    group.hand(Fault("memory", fault.round, fault.peer, scale=4.0))
    yield _ended(group, fault.peer)
    yield lambda: limit.kills() == 1
    assert group.workers[fault.peer].process.poll() == -signal.SIGKILL
    yield from _again(group, fault.peer)


def slow(group: Group, fault: Fault) -> Course:
    """The worker takes its time for some rounds; it stays."""
    group.hand(fault)
    yield lambda: group.has_fired(fault)


def corrupted_checkpoint(group: Group, fault: Fault) -> Course:
    """It refuses its newest checkpoint, in words; without that one it resumes from the one before."""
    peer = fault.peer
    group.workers[peer].process.kill()
    yield _ended(group, peer)
    newest = damage(group, peer)
    group.start(peer, "--resume", "auto")
    yield _ended(group, peer)
    code, output = group.workers[peer].wait()
    assert code == 2, output
    assert f"the checkpoint {newest} is damaged" in output, output
    newest.with_suffix(".json").unlink()
    newest.unlink()
    yield from _again(group, peer)
    again = group.workers[peer]
    yield lambda: f"peer {peer} resumed at round" in again.output.read_text()


def damage(group: Processes, peer: int) -> Path:
    """Flip a byte of the newest checkpoint of a peer; its file."""
    newest = group.newest_checkpoint(peer)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    newest.write_bytes(data)
    return newest


def duplicate_identity(group: Group, fault: Fault) -> Course:
    """Whoever comes with the id of a living peer is refused; the peer is not concerned."""
    number = group.standing()[fault.peer]
    impostor = group.spawn(fault.peer, "--peer", str(fault.peer), "--set", "exchange.join_window=4")
    yield lambda: impostor.process.poll() is not None
    code, output = impostor.wait()
    assert code == 3, output
    assert f"peers [{fault.peer}] are held by living members" in output, output
    assert group.standing()[fault.peer] == number


def stolen_bearer(group: Group, fault: Fault) -> Course:
    """Another process takes over the stream of a peer; the peer takes it back, and the group goes on."""
    group.hand(fault)
    yield lambda: group.has_fired(fault)
    bearer = beside(group.faults, f"bearer-{fault.peer}").read_text()
    access = Access(group.address)
    worker, before = group.workers[fault.peer], group.standing()[fault.peer]
    known = len(worker.output.read_text())
    with access.channel() as channel:
        stream = channel.stream_stream("/consensus.Exchange/Stream")
        call = stream(iter(encode(FrameHeader(attach=Attach(pending=True)))), metadata=access.metadata(bearer))
        assert next(call)  # the coordinator has taken it in
        call.cancel()
    yield lambda: "broke; connecting again" in worker.output.read_text()[known:]
    yield lambda: group.standing().get(fault.peer) == before


def dropped(group: Group, fault: Fault) -> Course:
    """Connections are reset: the worker connects again, and keeps its membership."""
    proxy = group.proxies[fault.peer]
    accepted, cut = proxy.accepted, proxy.cut
    proxy.drop()
    assert proxy.cut > cut
    yield lambda: proxy.accepted > accepted
    yield from _stands(group, fault.peer, group.workers[fault.peer].process.poll)


def half_open(group: Group, fault: Fault) -> Course:
    """Nobody is told: the coordinator expels the silent worker, which finds out, and joins again."""
    proxy, number = group.proxies[fault.peer], group.standing()[fault.peer]
    proxy.freeze()
    assert proxy.frozen
    yield lambda: fault.peer not in group.places()
    yield _rejoined(group, fault.peer, number)


def slow_link(group: Group, fault: Fault) -> Course:
    """Every piece takes longer, for some rounds."""
    proxy, first = group.proxies[fault.peer], group.round()
    proxy.delay = fault.seconds
    yield lambda: group.round() >= first + fault.rounds
    proxy.delay = 0.0
    yield from _stands(group, fault.peer, group.workers[fault.peer].process.poll)


def partition(group: Group, fault: Fault) -> Course:
    """The cable is pulled until the peer is expelled; plugged in again it joins again."""
    host, number = group.hosts[fault.peer], group.standing()[fault.peer]
    host.cut()
    try:
        yield lambda: fault.peer not in group.places()
    finally:
        host.restore()
    yield _rejoined(group, fault.peer, number)


def bad_disk(group: Group, fault: Fault) -> Course:
    """It cannot save, says so and ends; when its disk is well again it comes back."""
    spoil, mend, why = disk_of(group, fault)
    spoil()
    yield _ended(group, fault.peer)
    code, output = group.workers[fault.peer].wait()
    assert code == 2, output
    assert f"peer {fault.peer}: cannot save a checkpoint" in output, output
    assert why in output, output
    mend()
    yield from _again(group, fault.peer)


def disk_of(group: Processes, fault: Fault) -> tuple[Callable[[], object], Callable[[], object], str]:
    """How the disk of a peer is spoiled and mended, and what the system says meanwhile."""
    disk = group.disks[fault.peer]
    if fault.kind == "disk_full":
        return disk.fill, disk.free, "No space left on device"
    return disk.read_only, disk.writable, "Read-only file system"


def coordinator_kill(group: Group, fault: Fault) -> Course:
    """Killed; started again it knows everything, and the workers connect again."""
    yield from _coordinator_ends(group, fault, signal.SIGKILL)


def coordinator_restart(group: Group, fault: Fault) -> Course:
    """The same in good order."""
    yield from _coordinator_ends(group, fault, signal.SIGTERM)


def _coordinator_ends(group: Group, fault: Fault, number: signal.Signals) -> Course:
    gone, process = time.monotonic(), group.coordinator.process
    process.send_signal(number)
    yield lambda: process.poll() is not None
    yield _after(fault.seconds)
    group.coordinator_again(gone)
    yield group.whole


def coordinator_stop(group: Group, fault: Fault) -> Course:
    """Stopped, and goes on; nobody is expelled for a silence that was the coordinator's own."""
    gone, process, before = time.monotonic(), group.coordinator.process, group.standing()
    process.send_signal(signal.SIGSTOP)
    yield _after(fault.seconds)
    process.send_signal(signal.SIGCONT)
    group.away.append(time.monotonic() - gone)
    yield group.whole
    assert group.standing() == before, "a coordinator that was stopped has expelled somebody"


def clock_jump(group: Group, fault: Fault) -> Course:
    """A worker sees another time of day; nothing else changes."""
    before = group.standing()
    yield sees_another_day(group, fault)
    assert group.standing() == before


def sees_another_day(group: Processes, fault: Fault) -> Callable[[], bool]:
    """Let the clock of a peer jump; whether its worker has seen it, where it waited at the gate."""
    group.clocks[fault.peer].write_text(f"{fault.seconds:+.0f}")
    return lambda: any(
        fault.peer in line["peers"] and abs(line["clock"] - time.time() - fault.seconds) < abs(fault.seconds) / 2
        for line in held(group.faults)
    )


def coordinator_clock_jump(group: Group, fault: Fault) -> Course:
    """The coordinator sees another time of day; nothing else changes."""
    before, first = group.standing(), group.round()
    group.clocks[fault.peer].write_text(f"{fault.seconds:+.0f}")

    def jumped() -> bool:
        status = group.status()
        return status is not None and abs(status["unix_time"] - time.time() - fault.seconds) < abs(fault.seconds) / 2

    yield jumped
    yield lambda: group.round() >= first + fault.rounds
    assert group.standing() == before


COURSES: dict[str, Callable[[Group, Fault], Course]] = {
    "sigkill": sigkill,
    "sigterm": sigterm,
    "sigstop": sigstop,
    "replaced": replaced,
    "out_of_memory": out_of_memory,
    "corrupted_checkpoint": corrupted_checkpoint,
    "duplicate_identity": duplicate_identity,
    STOLEN: stolen_bearer,
    "clock_jump": clock_jump,
    "slow_link": slow_link,
    "dropped": dropped,
    "half_open": half_open,
    "partition": partition,
    "disk_full": bad_disk,
    "read_only": bad_disk,
    "coordinator_kill": coordinator_kill,
    "coordinator_stop": coordinator_stop,
    "coordinator_restart": coordinator_restart,
    "coordinator_clock_jump": coordinator_clock_jump,
    "exception": ends,
    "kill": ends,
    "gpu_memory": ends,
    "not_finite": ends,
    "other_batch": ends,
    "stop": stop,
    "slow": slow,
}
"""Kinds without a course are of other tests: a member that lies is not gone."""
