"""Address of the coordinator that peers are told, which is not always the one that it is bound to.

A name that leads peers astray is an error at the start, and not a minute later on each of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peers.common.errors import ConfigError
from peers.common.hosts import (
    WILDCARDS,
    Trouble,
    addresses,
    host_and_port,
    host_in,
    loopback,
    own_address,
    split,
    stays_here,
    written,
)

if TYPE_CHECKING:
    from coordinator.service.settings import ServiceSettings  # imports numpy, whose absence the doctor has to tell

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Advertised:
    """What peers are told.

    Attributes:
        host: name or address.
        port: None is the one that the coordinator listens on.
    """

    host: str
    port: int | None = None

    def at(self, bound: int) -> str:
        """HOST:PORT, of a coordinator that listens on this port."""
        return written(self.host, self.port or bound)


def advertised(settings: ServiceSettings) -> Advertised:
    """What peers of a coordinator are told; looks names up.

    Raises:
        ConfigError: the name leads nowhere, or peers elsewhere to their own machine; or there is no such interface.
    """
    if settings.advertise is not None:
        trouble = advertise_problem(settings.advertise, settings.bind)
        if trouble is not None:
            raise ConfigError(str(trouble))
        return Advertised(*host_and_port(settings.advertise))
    host = split(settings.bind)[0]
    if host not in WILDCARDS:
        return Advertised(host)
    own = own_address(settings.interface)
    if loopback([own]):
        logger.warning("this machine has no address but %s: nobody else will reach the coordinator", own)
    return Advertised(own)


def advertise_problem(address: str, bind: str) -> Trouble | None:
    """Why peers who are told this do not find a coordinator that is bound there.

    Args:
        address: HOST or HOST:PORT.
        bind: HOST:PORT.
    """
    what = f"coordinator.advertise = {address!r}"
    try:
        host, _ = host_and_port(address)
        resolved = addresses(host)
    except OSError as exc:
        text = f"{what} does not resolve: {exc.strerror or exc}"
        return Trouble(text, "name this machine as its peers know it, or give its address")
    except ValueError as exc:
        return Trouble(f"coordinator.advertise = {exc}", "name this machine as its peers know it")
    if loopback(resolved) and not stays_here(host_in(bind)):
        text = f"{what} is {', '.join(resolved)}: peers elsewhere would look on their own machine"
        remedy = "give the address of an interface that peers reach, or mend /etc/hosts (Debian has the host's own name"
        return Trouble(text, f"{remedy} at 127.0.1.1 there)")
    return None
