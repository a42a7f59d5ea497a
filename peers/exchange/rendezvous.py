"""Rendezvous of a fixed group: which network interface it uses, and why a group did not form.

By itself gloo listens at whatever the host's own name resolves to: on Debian that is 127.0.1.1, which no other host can
reach, and on a host with several networks it may be the wrong one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

from peers.common.hosts import (
    addresses,
    connection_trouble,
    interface_address,
    interface_of,
    interface_to,
    loopback,
    own_address,
    stays_here,
)

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
PATIENCE = 3.0
"""Seconds that a diagnosis may take."""
LOCAL_ADDR = "start torchrun with --local-addr=ADDRESS, this host's own address, on the host of rank 0"


def choose_interface(wanted: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell gloo and NCCL which interface to use, in the environment that they read when the group forms.

    Args:
        wanted: `exchange.interface`, which beats the environment. None: what the user has set there stands, and where
            the group spans hosts, the interface by which MASTER_ADDR is reached is chosen otherwise.
        environment: of the process, with torchrun's variables.

    Raises:
        ConfigError: the interface is not there, is down, or has no address.
    """
    if wanted is not None:
        interface_address(wanted)
        environment[GLOO], environment[NCCL] = wanted, f"={wanted}"  # NCCL takes eth1 for a prefix of eth10 without =
    elif spans_hosts(environment) and (interface := _toward(environment.get("MASTER_ADDR", ""))):
        environment.setdefault(GLOO, interface)
        environment.setdefault(NCCL, f"={interface}")


def spans_hosts(environment: Mapping[str, str]) -> bool:
    """Whether some members are not known to be on this host."""
    try:
        return int(environment["LOCAL_WORLD_SIZE"]) < int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        return False


def why_not_formed(environment: Mapping[str, str] = os.environ) -> str:
    """What may have kept the group from forming, as this member sees it, and what to do."""
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        return "MASTER_ADDR and MASTER_PORT do not say where it meets: start the workers with torchrun"
    where = f"it meets at {host}:{port} (MASTER_ADDR, MASTER_PORT)"
    try:
        resolved = addresses(host)
    except OSError as exc:
        remedy = f"give it an entry in the DNS or in /etc/hosts, or {LOCAL_ADDR}"
        return f"{where}, and {host} does not resolve here: {exc.strerror or exc}; {remedy}"
    text = f"{where}{_state(host, int(port), environment)}"
    return f"{text}; {_only_here(host, resolved)}" if spans_hosts(environment) and loopback(resolved) else text


def _state(host: str, port: int, environment: Mapping[str, str]) -> str:
    """Whether the meeting point answers, and where to look next."""
    others = "a member may be missing: look at the logs of the others"
    if spans_hosts(environment):
        used = environment.get(GLOO, "of the host's own name")
        others += f"; or they do not reach one another by interface {used}: look for a firewall, set exchange.interface"
    if environment.get("RANK") == "0" and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return f", in this process; {others}"  # what it opened is closed by now: nothing to try
    try:
        with socket.create_connection((host, port), PATIENCE):
            return f", which takes connections; {others}"
    except ConnectionRefusedError:
        return ", and nothing listens there: look at the log of torchrun on that host"
    except (OSError, OverflowError) as exc:
        text = connection_trouble(host, port, exc).text
        return f", and {text}; look for a firewall or a wrong network between the two hosts"


def _only_here(host: str, resolved: tuple[str, ...]) -> str:
    """What it means for members on other hosts that the group meets at a loopback address."""
    if stays_here(host):
        return f"{host} is this machine itself, and members on other hosts look on theirs; {LOCAL_ADDR}"
    text = f"{host} is {', '.join(resolved)} here, this machine itself, as Debian writes it into /etc/hosts"
    return f"{text}: where members on other hosts do not find it by this name, {LOCAL_ADDR}"


def _toward(master: str) -> str | None:
    """The interface by which the group meets; None where nothing can be said, and the library has to find out."""
    try:
        resolved = addresses(master)
    except OSError:
        return None
    if loopback(resolved) and not stays_here(master):
        return interface_of(own_address())  # the name of this host itself: others know it by another address
    return interface_to(master)
