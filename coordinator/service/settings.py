"""Settings of a coordinator: one frozen value, checked as a whole when it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from peers.common.errors import ConfigError
from peers.common.hosts import host_and_port, host_in, stays_here
from peers.method.target_selection import Rule
from protos.consensus_pb2 import WireDtype
from protos.tensors import NAMES, size_of

RULES = ("mean", "frozen", "random_peer", "roles", "neighbours", "median", "trimmed_mean")
MAX_PEERS = 4096
"""Room that frame headers have for peer ids."""


@dataclass(frozen=True)
class Tls:
    """Files of the certificates, PEM.

    Attributes:
        certificate: the server's certificate chain.
        key: its private key.
        client_ca: authority of the peers' certificates; with it, peers must show one (mutual TLS).
    """

    certificate: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True)
class ServiceSettings:
    """All that a coordinator is told; contradictions are refused at once, all together.

    Attributes:
        run_id: name of the run; a peer of another run is turned away.
        state: folder of the store, made if it is missing.
        rule: the target rule, with the run's seed.
        rounds: rounds of the run.
        shape: (B, D) of every peer's outputs.
        group: peers that the group has when the first round opens.
        bind: host and port to listen on; port 0 takes a free one.
        advertise: HOST or HOST:PORT that peers are told; None is as bound, or of a wildcard this host's own address.
        interface: whose address peers are told where `bind` is a wildcard; None is the one of the default route.
        min_peers: fewest peers that a round may have.
        quorum: share of a round's peers that suffices at its deadline.
        wires: element types that publications may have: float32, bf16, float16.
        agreed: what every worker must have in common, by name; names not listed are settled by the first that joins.
        heartbeat: seconds of silence after which a worker is expelled.
        round_deadline: seconds that a round waits for its slowest member, from its first publication.
        join_window: seconds to wait for the group to form, to grow back to `min_peers`, and to part.
        token: the group's secret; None lets everybody in.
        tls: certificates; None is plain text.
        insecure: listen beyond loopback without TLS or a token, all the same.
        metrics_port: port of Prometheus on the same host; 0 takes a free one, None has none.
        lane_port: port on the same host for the lanes of workers that share no memory with it; 0 takes a free one, None
            has none: their frames go by the stream.
        shared_memory: take payloads of peers on this host through shared memory.
        norm_bound: largest root mean square of one peer's outputs.
        max_peers: most peers at a time.
        max_refused: refused publications in a row that expel a worker.
        max_missed: rounds in a row that ended without a member and expel it.
        joins_per_minute: Join requests of all clients together.
        messages_per_second: messages of one stream.
        report_bytes: bytes of one peer's last word; of all of a worker's together twice as many.
        linger: keep answering after the run has ended, until stopped.
        peer_ids: first and last peer id that is given; None is from 0 on, `max_peers` of them.
    """

    run_id: str
    state: str
    rule: Rule
    rounds: int
    shape: tuple[int, int]
    group: int
    bind: str = "127.0.0.1:0"
    advertise: str | None = None
    interface: str | None = None
    min_peers: int = 2
    quorum: float = 0.5
    wires: tuple[str, ...] = ("float32", "bf16", "float16")
    agreed: Mapping[str, str] = field(default_factory=dict)
    heartbeat: float = 5.0
    round_deadline: float = 60.0
    join_window: float = 600.0
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    insecure: bool = False
    metrics_port: int | None = None
    lane_port: int | None = 0
    shared_memory: bool = True
    norm_bound: float = 1e6
    max_peers: int = 256
    max_refused: int = 3
    max_missed: int = 3
    joins_per_minute: int = 600
    messages_per_second: float = 20000.0
    report_bytes: int = 256 * 1024
    linger: bool = False
    peer_ids: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ConfigError(
                "the coordinator's settings cannot be used:\n" + "\n".join(f"- {line}" for line in problems)
            )

    @cached_property
    def dtypes(self) -> tuple[WireDtype, ...]:
        """Element types of `wires`."""
        return tuple(NAMES[name] for name in self.wires)

    @property
    def payload_limit(self) -> int:
        """Bytes of tensors in the largest frame: outputs of all peers where the rule needs them, one sum otherwise."""
        one = size_of(NAMES["float32"], *self.shape)
        return one if self.rule.kind == "sum" else one * self.max_peers

    @property
    def common_result(self) -> int:
        """Bytes of tensors in a result that all members get alike; 0 where each gets its own."""
        alike = self.rule.kind == "sum" or self.rule.aggregated
        return size_of(NAMES["float32"], *self.shape) if alike else 0

    @property
    def ids(self) -> range:
        """Peer ids that may be given."""
        return range(self.max_peers) if self.peer_ids is None else range(self.peer_ids[0], self.peer_ids[1] + 1)

    @property
    def digest(self) -> str:
        """Of all that decides a run's numbers: a store of other settings is not continued."""
        facts = [self.run_id, asdict(self.rule), self.rounds, self.shape, sorted(self.agreed.items())]
        facts += [] if self.peer_ids is None else [self.peer_ids]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()

    @property
    def loopback(self) -> bool:
        """Whether nobody beyond this host can connect."""
        return stays_here(host_in(self.bind))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ServiceSettings:
        """Settings of a JSON object: nested objects for `rule` and `tls`, lists for tuples.

        Raises:
            ConfigError: unknown or missing names, values that do not fit, contradictions.
        """
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise ConfigError(f"the coordinator's settings have no {', '.join(unknown)}; remove them")
        made = dict(values)
        try:
            made["rule"] = Rule(**values["rule"])
            made["shape"] = tuple(values["shape"])
            made["wires"] = tuple(values.get("wires", cls.wires))
            made["peer_ids"] = tuple(values["peer_ids"]) if values.get("peer_ids") else None
            made["tls"] = Tls(**values["tls"]) if values.get("tls") else None
            return cls(**made)
        except (KeyError, TypeError) as exc:
            raise ConfigError(
                f"the coordinator's settings are incomplete, or a value has the wrong type: {exc}"
            ) from exc


def _problems(it: ServiceSettings) -> Iterator[str]:
    """Every rule that the settings break, one sentence each."""
    yield from _numbers(it)
    yield from _times(it)
    host, _, port = it.bind.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        yield f"bind is {it.bind!r}, expected HOST:PORT, e.g. 127.0.0.1:7070"
    elif not it.insecure and not it.loopback and (it.tls is None or not it.token):
        parts = {"tls (security.certs)": it.tls, "token (security.token_file, or PEERS_TOKEN)": it.token}
        missing = " and ".join(name for name, there in parts.items() if not there)
        yield (
            f"bind is {it.bind}, which others can reach, without {missing}: set what is missing, or bind to "
            f"127.0.0.1, or say insecure: true (security.insecure) if the network is trusted"
        )
    yield from _told(it)
    if it.peer_ids is not None and (len(it.peer_ids) != 2 or not 0 <= it.peer_ids[0] <= it.peer_ids[1] < MAX_PEERS):
        yield f"peer_ids are {it.peer_ids}, expected the first and the last id, 0 to {MAX_PEERS - 1}"
    if it.token is not None and len(it.token) < 16:
        yield "token has fewer than 16 characters: make one with `openssl rand -hex 32`"
    if not it.run_id or len(it.run_id) > 200:
        yield f"run_id has {len(it.run_id)} characters, expected 1 to 200"
    if it.rule.name not in RULES:
        yield f"rule is {it.rule.name!r}, expected one of {', '.join(RULES)}"
    if it.rule.name == "trimmed_mean" and not 0 <= it.rule.q < 0.5:
        yield f"rule.q is {it.rule.q}, expected 0 up to, not including, 0.5: both ends are cut"
    wrong = sorted(set(it.wires) - set(NAMES))
    if wrong or not it.wires:
        yield f"wires are {list(it.wires)}, expected at least one of {', '.join(NAMES)}"


def _told(it: ServiceSettings) -> Iterator[str]:
    if it.advertise is None:
        return
    try:
        _, port = host_and_port(it.advertise)
    except ValueError as exc:
        yield f"advertise is {exc}"
        return
    if port is not None and it.bind.endswith(":0"):
        yield (
            f"advertise is {it.advertise!r} and bind is {it.bind!r}, which takes any free port: give bind the port "
            f"that peers are led to, or advertise the host alone"
        )


def _numbers(it: ServiceSettings) -> Iterator[str]:
    least = {"rounds": 1, "group": 1, "min_peers": 1, "max_refused": 1, "max_missed": 1, "joins_per_minute": 1}
    for name, bound in least.items():
        if getattr(it, name) < bound:
            yield f"{name} is {getattr(it, name)}, expected at least {bound}"
    if len(it.shape) != 2 or min(it.shape) < 1 or max(it.shape) >= 2**31:
        yield f"shape is {it.shape}, expected (B, D), both at least 1"
    if it.min_peers > it.group:
        yield f"min_peers is {it.min_peers}, more than the {it.group} peers of the group: no round could ever open"
    if not it.group <= it.max_peers <= MAX_PEERS:
        yield f"max_peers is {it.max_peers}, expected {it.group} (the group) to {MAX_PEERS} (room in a frame's header)"
    if not 0 < it.quorum <= 1:
        yield f"quorum is {it.quorum}, expected a share above 0, up to 1"
    for name in ("norm_bound", "messages_per_second"):
        if not 0 < getattr(it, name) < float("inf"):
            yield f"{name} is {getattr(it, name)}, expected a positive number"
    if not 0 < it.report_bytes <= 1024 * 1024:
        yield f"report_bytes is {it.report_bytes}, expected 1 to 1048576"
    for name in ("metrics_port", "lane_port"):
        port = getattr(it, name)
        if port is not None and not 0 <= port <= 65535:
            yield f"{name} is {port}, expected a port, 0 for a free one, or none"


def _times(it: ServiceSettings) -> Iterator[str]:
    times = {name: getattr(it, name) for name in ("heartbeat", "round_deadline", "join_window")}
    for name, value in times.items():
        if not 0 < value < float("inf"):
            yield f"{name} is {value}, expected a positive number of seconds"
    if it.heartbeat > it.round_deadline:
        yield (
            f"heartbeat is {it.heartbeat} s, longer than round_deadline ({it.round_deadline} s): a dead member would "
            f"still be waited for in the round after the one that it missed; make it at most as long"
        )
    if it.round_deadline > it.join_window:
        yield (
            f"round_deadline is {it.round_deadline} s, longer than join_window ({it.join_window} s): a newcomer, who "
            f"waits for the open round to end, would give up first; make join_window at least as long"
        )
