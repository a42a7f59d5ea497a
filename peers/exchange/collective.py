"""Exchange over torch.distributed: gloo between CPUs, NCCL between GPUs.

A round is an `all_to_all` of [header | payload] rows and, for rules on the sum, an `all_gather` of summed chunks: a
reduce-scatter spelled out. It moves as many bytes as a ring all-reduce, and it lets us add in float32 and in the order
of peer ids whatever the wire carries, see who contributed, and compare batch digests without a second message.
Rules on members' outputs send each worker just the outputs that its peers listen to in this round.

The group is fixed: who leaves ends it for all, and a lost member is an error for all, within the round deadline.
Nothing authenticates the members: run it on a network that you trust.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from peers.common.errors import ExchangeError
from peers.common.summation import tree_sum
from peers.exchange.base import WIRES, Exchange, Hello, Pending, Report, agree, as_sent, check_digests
from peers.exchange.rendezvous import choose_interface, why_not_formed
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus, Ticket

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<q?7x16s")  # round, leaving, batch digest; one byte per hosted peer follows: contributes
_ALIGNMENT = 16  # bytes; every payload starts at a multiple, so that it can be viewed as any dtype


class CollectiveExchange(Exchange):
    """One worker's view of a group that meets in torch.distributed.

    Rank, world size and rendezvous come from the environment, as torchrun sets it.

    Args:
        device: where outputs live; cuda takes NCCL, cpu takes gloo.
        round_deadline: seconds that a round waits for its slowest member.
        join_window: seconds that the group waits to form and to part.
        interface: network interface between hosts; None takes the one by which the group's meeting point is reached.
    """

    def __init__(
        self, device: torch.device, *, round_deadline: float, join_window: float, interface: str | None = None
    ) -> None:
        self.device = device
        self._interface = interface
        self._deadline = timedelta(seconds=round_deadline)
        self._window = timedelta(seconds=join_window)
        self._rounds: dist.ProcessGroup | None = None
        self.hellos: list[Hello] = []
        """Of all workers, by rank; empty before `join`."""

    def join(self, hello: Hello) -> Ticket:
        """See `Exchange.join`; ConfigError where the interface cannot be used."""
        choose_interface(self._interface)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            store, rank, world = next(rendezvous("env://", timeout=self._window))
            dist.init_process_group(backend, None, self._window, world, rank, _fresh(store))
            self._rounds = cast(dist.ProcessGroup, dist.new_group(timeout=self._deadline))
            hellos = self._gather_json(asdict(hello))
        except (RuntimeError, ValueError) as exc:
            window = f"{self._window.total_seconds():g} s (exchange.join_window)"
            text = f"the group did not form within {window}: {_brief(exc)}; {why_not_formed()}"
            raise ExchangeError(text) from exc
        self.hellos = [_hello_from_json(value) for value in hellos]
        return agree(self.hellos, dist.get_rank())

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        """See `Exchange.publish`."""
        if self._rounds is None:
            raise RuntimeError("publish came before join")
        hello = self.hellos[dist.get_rank()]
        sent = {peer: as_sent(z, hello.wire) for peer, z in outputs.items() if z is not None}
        header = _HEADER.pack(round_, leaving, digest) + bytes(peer in sent for peer in hello.peers)
        plan = _SumPlan(self) if hello.rule.kind == "sum" else _MembersPlan(self, round_)
        rows = [_row(header, payload, self.device) for payload in plan.payloads(sent)]
        receive = torch.empty(sum(plan.receive_bytes), dtype=torch.uint8, device=self.device)
        try:
            work = dist.all_to_all_single(
                receive,
                torch.cat(rows),
                output_split_sizes=plan.receive_bytes,
                input_split_sizes=[len(row) for row in rows],
                group=self._rounds,
                async_op=True,
            )
        except RuntimeError as exc:
            raise _lost(round_, exc) from exc
        return _CollectivePending(plan, round_, sent, work, receive)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        """See `Exchange.leave`."""
        try:
            gathered = self._gather_json({str(peer): report for peer, report in reports.items()})
        except RuntimeError as exc:
            raise ExchangeError(f"the group did not part: a member was lost, or is late: {_brief(exc)}") from exc
        return {int(peer): report for worker in gathered for peer, report in worker.items()}

    def close(self) -> None:
        """See `Exchange.close`."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._rounds = None

    def gather_chunks(self, chunk: Tensor) -> Tensor:
        """All workers' chunks [c] in rank order, [world * c]."""
        whole = torch.empty(dist.get_world_size() * len(chunk), dtype=chunk.dtype, device=self.device)
        dist.all_gather_into_tensor(whole, chunk.contiguous(), group=self._rounds)
        return whole

    def _gather_json(self, value: Any) -> list[Any]:
        """Each worker's JSON value, by rank. JSON and not the library's all_gather_object, which unpickles."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        world = dist.get_world_size()
        sizes = torch.empty(world, dtype=torch.int64, device=self.device)
        dist.all_gather_into_tensor(sizes, torch.tensor([len(text)], device=self.device))
        longest = int(sizes.max())
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text
        texts = torch.empty(world * longest, dtype=torch.uint8, device=self.device)
        dist.all_gather_into_tensor(texts, padded)
        rows = texts.view(world, longest).cpu()
        return [json.loads(bytes(row[:size].numpy())) for row, size in zip(rows, sizes.tolist(), strict=True)]


class _Plan:
    """Who sends what to whom in a round, in bytes; every worker derives the same from the hellos."""

    def __init__(self, exchange: CollectiveExchange) -> None:
        self.exchange = exchange
        self.hellos = exchange.hellos
        self.hello = self.hellos[dist.get_rank()]
        self.shape = self.hello.shape
        self.receive_bytes: list[int] = []

    def payloads(self, sent: Mapping[int, Tensor]) -> list[Tensor]:
        """What goes to each worker, as bytes [n], by rank."""
        raise NotImplementedError

    def finish(self, payloads: list[Tensor], contributors: set[int]) -> tuple[Tensor | None, dict[int, Tensor]]:
        """Total and members from the bytes that came from each worker."""
        raise NotImplementedError


class _SumPlan(_Plan):
    """Each worker adds one chunk of everybody's partial sums, then all gather the chunks."""

    def __init__(self, exchange: CollectiveExchange) -> None:
        super().__init__(exchange)
        elements = math.prod(self.shape)
        self.chunk = _padded(math.ceil(elements / len(self.hellos)), _ALIGNMENT)
        self.receive_bytes = [_header_bytes(h) + self.chunk * _partial_dtype(h).itemsize for h in self.hellos]

    def payloads(self, sent: Mapping[int, Tensor]) -> list[Tensor]:
        dtype = _partial_dtype(self.hello)
        padded = torch.zeros(len(self.hellos) * self.chunk, dtype=dtype, device=self.exchange.device)
        if sent:
            padded[: math.prod(self.shape)] = tree_sum(sent).flatten().to(dtype)
        return list(padded.view(torch.uint8).view(len(self.hellos), -1).unbind())

    def finish(self, payloads: list[Tensor], contributors: set[int]) -> tuple[Tensor | None, dict[int, Tensor]]:
        parts = {
            hello.peers[0]: payload.view(_partial_dtype(hello)).float()
            for hello, payload in zip(self.hellos, payloads, strict=True)
            if contributors & set(hello.peers)
        }
        if not parts:
            return None, {}
        whole = self.exchange.gather_chunks(tree_sum(parts))
        return whole[: math.prod(self.shape)].view(self.shape), {}


class _MembersPlan(_Plan):
    """Each worker gets the outputs that its peers listen to, and no others."""

    def __init__(self, exchange: CollectiveExchange, round_: int) -> None:
        super().__init__(exchange)
        sources = self.hello.rule.sources(round_, range(self.hello.group))
        self.sources = {peer: sources[peer] for peer in self.hello.peers}
        heard = [{source for peer in hello.peers for source in sources[peer]} for hello in self.hellos]
        me = dist.get_rank()
        self.dtype = WIRES[self.hello.wire]
        self.size = _padded(math.prod(self.shape) * self.dtype.itemsize, _ALIGNMENT)
        self.goes = [sorted(needs & set(self.hello.peers)) if w != me else [] for w, needs in enumerate(heard)]
        self.comes = [sorted(heard[me] & set(hello.peers)) if w != me else [] for w, hello in enumerate(self.hellos)]
        self.receive_bytes = [
            _header_bytes(hello) + self.size * len(comes) for hello, comes in zip(self.hellos, self.comes, strict=True)
        ]

    def payloads(self, sent: Mapping[int, Tensor]) -> list[Tensor]:
        rows = []
        for peers in self.goes:
            row = torch.zeros(len(peers), self.size, dtype=torch.uint8, device=self.exchange.device)
            for place, peer in enumerate(peers):
                if peer in sent:
                    data = sent[peer].to(self.dtype).flatten().view(torch.uint8)
                    row[place, : len(data)] = data
            rows.append(row.flatten())
        return rows

    def finish(self, payloads: list[Tensor], contributors: set[int]) -> tuple[Tensor | None, dict[int, Tensor]]:
        members = {}
        used = math.prod(self.shape) * self.dtype.itemsize
        for peers, payload in zip(self.comes, payloads, strict=True):
            for place, peer in enumerate(peers):
                if peer in contributors:
                    data = payload[place * self.size : place * self.size + used]
                    members[peer] = data.view(self.dtype).float().view(self.shape)
        return None, members


@dataclass(frozen=True)
class _CollectivePending(Pending):
    """A round under way: the library fills `receive`, `work` says when it has."""

    plan: _Plan
    round: int
    sent: dict[int, Tensor]
    work: Any
    receive: Tensor

    def result(self, timeout: float | None = None) -> Consensus[Tensor]:
        plan = self.plan
        try:
            self.work.wait(*(() if timeout is None else (timedelta(seconds=timeout),)))
            rows = torch.split(self.receive, plan.receive_bytes)
            contributors, leaving = self._read_headers(rows)
            payloads = [row[_header_bytes(hello) :] for hello, row in zip(plan.hellos, rows, strict=True)]
            total, members = plan.finish(payloads, contributors)
        except RuntimeError as exc:
            raise _lost(self.round, exc) from exc
        sources = plan.sources if isinstance(plan, _MembersPlan) else {}
        return Consensus(self.round, 1, tuple(sorted(contributors)), total, self.sent, members, sources, leaving)

    def _read_headers(self, rows: tuple[Tensor, ...]) -> tuple[set[int], frozenset[int]]:
        """Contributors and leavers, after all members are shown to be at the same batch of the same round."""
        hellos = self.plan.hellos
        longest = max(_header_bytes(hello) for hello in hellos)
        heads = torch.stack([torch.nn.functional.pad(row[:longest], (0, longest - len(row[:longest]))) for row in rows])
        contributors, leaving, digests = set(), set(), {}
        for hello, head in zip(hellos, heads.cpu().numpy(), strict=True):
            round_, leaves, digest = _HEADER.unpack_from(head.data)
            digests[hello.peers] = digest if round_ == self.round else digest + round_.to_bytes(8, "big")
            flags = head[_HEADER.size : _HEADER.size + len(hello.peers)]
            contributors |= {peer for peer, flag in zip(hello.peers, flags, strict=True) if flag}
            leaving |= set(hello.peers) if leaves else set()
        check_digests(self.round, digests)
        return contributors, frozenset(leaving)


def _row(header: bytes, payload: Tensor, device: torch.device) -> Tensor:
    padded = header.ljust(_padded(len(header), _ALIGNMENT), b"\0")
    return torch.cat([torch.frombuffer(bytearray(padded), dtype=torch.uint8).to(device), payload])


def _header_bytes(hello: Hello) -> int:
    return _padded(_HEADER.size + len(hello.peers), _ALIGNMENT)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _partial_dtype(hello: Hello) -> torch.dtype:
    """Sums of several peers travel as float32: rounding them would not be what any of the peers has sent."""
    return torch.float32 if len(hello.peers) > 1 else WIRES[hello.wire]


def _lost(round_: int, exc: RuntimeError) -> ExchangeError:
    return ExchangeError(
        f"round {round_}: a member of the group was lost, or did not publish within the round deadline: {_brief(exc)}"
    )


def _brief(exc: Exception) -> str:
    """The first line of a library's message, without its full stop and the C++ frames that follow it."""
    return str(exc).strip().splitlines()[0].rstrip(".") if str(exc).strip() else type(exc).__name__


def _hello_from_json(value: Any) -> Hello:
    return Hello(
        peers=tuple(value["peers"]),
        group=value["group"],
        shape=tuple(value["shape"]),
        agreed=value["agreed"],
        saved={int(peer): tuple(rounds) for peer, rounds in value["saved"].items()},
        rule=TargetSelection(**value["rule"]),
        wire=value["wire"],
    )


def _fresh(store: Any) -> Any:
    """The part of a store that belongs to this start of the group.

    An agent of torchrun keeps its store when it starts its workers again, and with it the addresses of those that have
    ended: who is faster than another would try to connect to where that one was, and fail. Agents on several hosts
    count restarts each for itself, so there the store stays one.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return store
    return PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
