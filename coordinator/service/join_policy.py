"""Checks of a Join: the right run, and the same shape, rule, configuration and data as everybody else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from coordinator.service.membership import PeerRequest
from coordinator.service.settings import ServiceSettings
from coordinator.service.validation import Refusal
from protos.consensus_pb2 import DISAGREES, MALFORMED, WRONG_RUN, JoinRequest
from protos.tensors import name_of

REQUEST_BYTES = 16
MAX_FACTS = 64
MAX_SAVED = 4096
MAX_INCARNATION = 2**31
"""What a newcomer may claim to have been: each that follows counts one further, and must fit into 32 bits."""


def check_join(request: JoinRequest, settings: ServiceSettings, agreed: Mapping[str, str]) -> Refusal | None:
    """Why a request is turned away; None if it is not.

    Args:
        request: the newcomer's.
        settings: the run's.
        agreed: what the group has in common so far, by name.
    """
    outside = sorted(wish.index for wish in request.peers if wish.HasField("index") and wish.index not in settings.ids)
    if request.run_id != settings.run_id:
        text = f"this coordinator runs {settings.run_id!r}, the peer was started for {request.run_id[:200]!r}"
        return Refusal(WRONG_RUN, text)
    if len(request.request) != REQUEST_BYTES or not request.peers:
        return Refusal(MALFORMED, f"a Join has {REQUEST_BYTES} bytes of `request` and at least one peer")
    if len(request.agreed) > MAX_FACTS or any(len(wish.saved) > MAX_SAVED for wish in request.peers):
        return Refusal(MALFORMED, f"a Join names at most {MAX_FACTS} facts, and {MAX_SAVED} saved rounds for each peer")
    if settings.peer_ids is not None and request.insist and outside:
        first, last = settings.peer_ids
        text = f"this coordinator gives ids {first} to {last}, not {outside}: join the one that does, or ask for no id"
        return Refusal(DISAGREES, text)
    if any(wish.incarnation > MAX_INCARNATION for wish in request.peers):
        return Refusal(MALFORMED, f"a peer asks for an incarnation above {MAX_INCARNATION}")
    differences = list(_differences(request, settings, agreed))
    if differences:
        text = f"{'; '.join(differences)}; start all workers with the same configuration, data and version"
        return Refusal(DISAGREES, text)
    return None


def peer_requests(request: JoinRequest) -> list[PeerRequest]:
    """What each peer of a request asks for."""
    return [
        PeerRequest(peer.index if peer.HasField("index") else None, peer.incarnation, tuple(peer.saved), peer.absent)
        for peer in request.peers
    ]


def bearer_hash(bearer: str) -> str:
    """What the coordinator keeps of a bearer: its SHA-256; the secret itself is 256 random bits."""
    return hashlib.sha256(bearer.encode()).hexdigest()


def _differences(request: JoinRequest, settings: ServiceSettings, agreed: Mapping[str, str]) -> Iterator[str]:
    if (request.batch, request.width) != settings.shape:
        yield f"output shape [B, D]: {[request.batch, request.width]}, expected {list(settings.shape)}"
    if request.rule != settings.rule.name:
        yield f"target rule: {request.rule[:64]}, expected {settings.rule.name}"
    if name_of(request.wire) not in settings.wires:
        yield f"wire dtype: {name_of(request.wire)}, expected {' or '.join(settings.wires)}"
    for name, due in sorted(agreed.items()):
        if request.agreed.get(name, "") != due:
            yield f"{name}: {request.agreed.get(name, 'missing')[:64]}, expected {due}"
