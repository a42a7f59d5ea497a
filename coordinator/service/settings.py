"""Settings of a coordinator: one frozen value, checked as a whole when it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from peers.common.errors import ConfigError
from peers.common.hosts import host_and_port, host_in, stays_here
from peers.config.schema import CoordinatorConfig
from peers.method.target_selection import TargetSelection
from protos.consensus_pb2 import WireDtype
from protos.tensors import NAMES, size_of

RULES = ("mean", "frozen", "random_peer", "roles", "neighbours", "median", "trimmed_mean")
MAX_PEERS = 4096
"""Room that frame headers have for peer ids."""
Dimension = Annotated[int, Field(ge=1, lt=2**31)]
Id = Annotated[int, Field(ge=0, lt=MAX_PEERS)]


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


class ServiceSettings(CoordinatorConfig):
    """All that a coordinator is told: the section `coordinator` of the configuration, and what the run adds to it.

    Raises:
        ConfigError: when it is made; lists all values out of range, or else all contradictions.
    """

    run_id: str = Field(min_length=1, max_length=200, description="A peer of another run is turned away.")
    state: str = Field(description="Folder of the store, made if it is missing.")
    rule: TargetSelection = Field(description="Target rule, with the seed of the run.")
    rounds: int = Field(ge=1, description="Rounds of the run.")
    shape: tuple[Dimension, Dimension] = Field(strict=False, description="(B, D) of every peer's outputs.")
    group: int = Field(ge=1, description="Peers that the group has when the first round opens.")
    min_peers: int = Field(2, ge=1, description="Fewest peers that a round may have.")
    max_peers: int = Field(256, ge=1, le=MAX_PEERS, description="Most peers at a time.")
    interface: str | None = Field(None, description="Whose address peers are told where `bind` is a wildcard.")
    wires: tuple[Literal["float32", "bf16", "float16"], ...] = Field(
        ("float32", "bf16", "float16"),
        strict=False,
        min_length=1,
        description="Element types that publications may have.",
    )
    agreed: dict[str, str] = Field(
        {}, description="What all workers have in common, by name; the first that joins settles what is not listed."
    )
    heartbeat: float = Field(5.0, gt=0, description="Seconds of silence after which a worker is expelled.")
    round_deadline: float = Field(60.0, gt=0, description="Seconds from a round's first publication to its end.")
    join_window: float = Field(600.0, gt=0, description="Seconds for the group to form, to grow again, and to part.")
    token: str | None = Field(None, repr=False, description="The group's secret; None lets everybody in.")
    tls: Tls | None = Field(None, description="Certificates; None is plain text.")
    insecure: bool = Field(False, description="Listen beyond loopback without TLS or a token, all the same.")
    shared_memory: bool = Field(True, description="Take payloads of peers on this host through shared memory.")
    max_refused: int = Field(3, ge=1, description="Refused publications in a row that expel a worker.")
    max_missed: int = Field(3, ge=1, description="Rounds in a row that ended without a member and expel it.")
    joins_per_minute: int = Field(600, ge=1, description="Join requests of all clients together.")
    messages_per_second: float = Field(20000.0, gt=0, description="Messages of one stream.")
    report_bytes: int = Field(
        256 * 1024, ge=1, le=1024 * 1024, description="Bytes of one peer's report; of all of a worker's twice as many."
    )
    linger: bool = Field(False, description="Keep answering after the run has ended, until stopped.")
    # Tuples are not strict: settings that come from JSON hold lists.
    peer_ids: tuple[Id, Id] | None = Field(
        None, strict=False, description="First and last peer id that is given. None: from 0 on, `max_peers` of them."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, handler: ModelWrapValidatorHandler[ServiceSettings]) -> ServiceSettings:
        try:
            settings = handler(values)
        except ValidationError as exc:
            raise _refused([_described(dict(error)) for error in exc.errors()]) from None  # its text shows the token
        problems = list(_contradictions(settings))
        if problems:
            raise _refused(problems)
        return settings

    def changed(self, **values: Any) -> ServiceSettings:
        """The same settings but for these values, checked again."""
        return ServiceSettings(**{**{name: getattr(self, name) for name in ServiceSettings.model_fields}, **values})

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


def _refused(problems: list[str]) -> ConfigError:
    lines = "\n".join(f"- {problem}" for problem in problems)
    return ConfigError(f"the coordinator's settings cannot be used:\n{lines}")


def _described(error: dict[str, Any]) -> str:
    """One problem that pydantic has found. What was given is shown, but for a secret or a value that is missing."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] in ("missing", "extra_forbidden") or name == "token":
        return f"{name}: {error['msg']}"
    return f"{name} is {error['input']!r}: {error['msg'].replace('Input should be', 'expected')}"


def _contradictions(settings: ServiceSettings) -> Iterator[str]:
    """Values that are allowed each by itself and make no service together, or only with more than a range can say."""
    host, _, port = settings.bind.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        yield f"bind is {settings.bind!r}, expected HOST:PORT, e.g. 127.0.0.1:7070"
    elif not settings.insecure and not settings.loopback and (settings.tls is None or not settings.token):
        parts = {"tls (security.certs)": settings.tls, "token (security.token_file, or PEERS_TOKEN)": settings.token}
        missing = " and ".join(name for name, there in parts.items() if not there)
        yield (
            f"bind is {settings.bind}, which others can reach, without {missing}: set what is missing, or bind to "
            f"127.0.0.1, or say insecure: true (security.insecure) if the network is trusted"
        )
    yield from _advertise(settings)
    if settings.token is not None and len(settings.token) < 16:
        yield "token has fewer than 16 characters: make one with `openssl rand -hex 32`"
    if settings.rule.name not in RULES:
        yield f"rule is {settings.rule.name!r}, expected one of {', '.join(RULES)}"
    if settings.rule.name == "trimmed_mean" and not 0 <= settings.rule.q < 0.5:
        yield f"rule.q is {settings.rule.q}, expected 0 up to, not including, 0.5: both ends are cut"
    if settings.min_peers > settings.group:
        yield f"min_peers is {settings.min_peers}, more than the {settings.group} peers of the group: no round opens"
    if settings.group > settings.max_peers:
        yield f"max_peers is {settings.max_peers}, expected {settings.group} (the group) to {MAX_PEERS}"
    if settings.peer_ids is not None and settings.peer_ids[0] > settings.peer_ids[1]:
        yield f"peer_ids are {settings.peer_ids}, expected the first and the last id"
    if settings.heartbeat > settings.round_deadline:
        yield (
            f"heartbeat is {settings.heartbeat} s, longer than round_deadline ({settings.round_deadline} s): a dead "
            f"member would still be waited for in the round after the one that it missed; make it at most as long"
        )
    if settings.round_deadline > settings.join_window:
        yield (
            f"round_deadline is {settings.round_deadline} s, longer than join_window ({settings.join_window} s): a "
            f"newcomer, who waits for the open round to end, would give up first; make join_window at least as long"
        )


def _advertise(settings: ServiceSettings) -> Iterator[str]:
    if settings.advertise is None:
        return
    try:
        _, port = host_and_port(settings.advertise)
    except ValueError as exc:
        yield f"advertise is {exc}"
        return
    if port is not None and settings.bind.endswith(":0"):
        yield (
            f"advertise is {settings.advertise!r} and bind is {settings.bind!r}, which takes any free port: give bind "
            f"the port that peers are led to, or advertise the host alone"
        )
