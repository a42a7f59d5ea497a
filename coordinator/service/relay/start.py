"""Start of a relay: its peer ids, the times that the coordinator above leaves it, its hub handed to the server."""

from __future__ import annotations

import logging
from functools import partial

from coordinator.service.relay.client import RelayClient
from coordinator.service.relay.hub import RelayHub
from coordinator.service.server import serve
from coordinator.service.settings import ServiceSettings
from peers.common.errors import ConfigError, DisagreementError
from peers.transport.access import Access

logger = logging.getLogger(__name__)


def serve_relay(settings: ServiceSettings, upstream: Access, address_file: str | None = None) -> int:
    """Run a relay until the run has ended or it is asked to stop.

    Args:
        settings: as for a coordinator of the whole group, with `peer_ids`.
        upstream: to the coordinator above.
        address_file: as of `server.serve`.

    Returns:
        as `server.serve`.

    Raises:
        ConfigError: see `relay_settings`; or as `server.serve`.
        ExchangeError: the coordinator above cannot be reached, or has another run.
    """
    return serve(relay_settings(settings, upstream), address_file, partial(RelayHub, access=upstream))


def peer_ids_of(upstream: str | None, peers: str | None) -> tuple[int, int] | None:
    """The peer ids that a relay answers for; None where no coordinator above is named.

    Args:
        upstream: HOST:PORT of the coordinator above.
        peers: FIRST-LAST, or one id.

    Raises:
        ConfigError: one comes without the other, or the ids are no range.
    """
    if (upstream is None) != (peers is None):
        given, missing = ("--upstream", "--peers FIRST-LAST") if peers is None else ("--peers", "--upstream ADDRESS")
        raise ConfigError(f"{given} comes without {missing}: a relay needs both, another coordinator neither")
    if peers is None:
        return None
    first, _, last = peers.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(first) > int(last or first):
        raise ConfigError(f"--peers is {peers!r}: expected FIRST-LAST, for example 0-15, or one id")
    return int(first), int(last or first)


def relay_settings(settings: ServiceSettings, access: Access) -> ServiceSettings:
    """Settings of a relay, with the times that the coordinator above leaves it; asks there.

    Its group is its `peer_ids`. It collects for half of the time that the coordinator above waits: so its sum is never
    late because a peer of its own was.

    Args:
        settings: as for a coordinator of the whole group, with `peer_ids`.
        access: to the coordinator above.

    Raises:
        ConfigError: no ids, ids beyond the group, a rule that needs more than sums, times that contradict.
        DisagreementError: the coordinator above runs another run.
        ExchangeError: it cannot be reached within the join window.
    """
    if settings.peer_ids is None:
        raise ConfigError(f"a relay of {access.address} needs the ids that it answers for: --peers FIRST-LAST")
    first, last = settings.peer_ids
    if last >= settings.group:
        raise ConfigError(
            f"the relay's peers are {first} to {last}, the group has {settings.group}, from 0 on: give ids that the "
            f"whole group has (group.peers)"
        )
    if settings.rule.kind != "sum":
        raise ConfigError(
            f"rule is {settings.rule.name!r}: a relay adds outputs up, and this rule needs each peer's own; use mean "
            f"or frozen, or let the peers join the coordinator above"
        )
    client = RelayClient(access, shared=False)
    try:
        above = client.look(settings.join_window)
    finally:
        client.close()
    if (above.run_id, above.rounds) != (settings.run_id, settings.rounds):
        raise DisagreementError(
            f"the coordinator at {access.address} has run {above.run_id!r} of {above.rounds} rounds, this relay was "
            f"started for {settings.run_id!r} of {settings.rounds}: start all of a tree with the same configuration"
        )
    deadline, count = above.round_deadline / 2, last - first + 1
    if deadline < settings.heartbeat or settings.join_window < above.round_deadline:
        raise ConfigError(
            f"the coordinator at {access.address} waits {above.round_deadline} s for a round, a relay half of that for "
            f"its own peers, {deadline} s: expected heartbeat (here {settings.heartbeat} s) to be at most that long, "
            f"and join_window (here {settings.join_window} s) at least {above.round_deadline} s"
        )
    block = 1 << (count - 1).bit_length()
    if first % block or (count < block and last < settings.group - 1):
        logger.warning(
            "peers %d to %d are no aligned block of 2^m ids: totals differ from a flat group's in their last bits",
            first,
            last,
        )
    return settings.changed(group=count, max_peers=count, min_peers=1, round_deadline=deadline)
