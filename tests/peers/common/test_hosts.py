"""Hosts: how addresses are written, what they resolve to, and by which interface one reaches another."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from peers.common import hosts
from peers.common.errors import ConfigError
from peers.exchange.rendezvous import choose_interface, why_not_formed
from peers.transport.access import Access

UP, DOWN = SimpleNamespace(isup=True), SimpleNamespace(isup=False)


def address(text: str) -> SimpleNamespace:
    """An address of an interface, as psutil says it."""
    return SimpleNamespace(family=socket.AF_INET6 if ":" in text else socket.AF_INET, address=text)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine on two networks, with an interface that is down and one without an address; returns what resolves."""
    there = {
        "lo": ["127.0.0.1", "::1"],
        "eth0": ["fe80::1%eth0", "2001:db8:1::5", "10.0.0.5"],
        "ib0": ["fe80::2%ib0", "2001:db8:2::5"],
        "eth1": ["fe80::3%eth1"],
        "eth2": [],
    }
    names = {"node1": "127.0.1.1", "node2": "10.0.0.6"}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {name: list(map(address, own)) for name, own in there.items()})
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: DOWN if name == "eth2" else UP for name in there})
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")

    def addresses(host: str) -> tuple[str, ...]:
        if host in names:
            return (names[host],)
        if host[0].isdigit() or ":" in host:
            return (host,)
        raise socket.gaierror(-2, "Name or service not known")

    def local(host: str) -> str | None:
        routes = {"10.0.0.6": "10.0.0.5", "10.0.0.5": "10.0.0.5", "127.0.1.1": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
        return routes.get(names.get(host, host))

    for module in ("peers.common.hosts", "peers.exchange.rendezvous"):
        monkeypatch.setattr(f"{module}.addresses", addresses)
    monkeypatch.setattr(hosts, "local_address", local)
    return names


@pytest.mark.parametrize(
    ("told", "host", "port"),
    [
        ("node1", "node1", None),
        ("node1:7070", "node1", 7070),
        ("10.0.0.5", "10.0.0.5", None),
        ("10.0.0.5:7070", "10.0.0.5", 7070),
        ("2001:db8::5", "2001:db8::5", None),
        ("[2001:db8::5]", "2001:db8::5", None),
        ("[2001:db8::5]:7070", "2001:db8::5", 7070),
    ],
)
def test_what_peers_are_told_has_a_port_or_none(told: str, host: str, port: int | None) -> None:
    """Names and addresses of both kinds, and back again."""
    assert hosts.host_and_port(told) == (host, port)
    if port is not None:
        assert hosts.written(host, port) == told
        assert hosts.split(told) == (host, port)


@pytest.mark.parametrize("told", ["", ":7070", "node1:0", "node1:65536", "[]:7070"])
def test_what_is_neither_host_nor_port(told: str) -> None:
    """Refused, with what was expected."""
    with pytest.raises(ValueError, match="expected HOST or HOST:PORT"):
        hosts.host_and_port(told)


def test_a_service_that_is_started_again_asks_for_the_port_that_it_had() -> None:
    """The host stays as it was asked for, a wildcard too; a port that was asked for stays as well."""
    assert hosts.same_port("0.0.0.0:0", "node1:41234") == "0.0.0.0:41234"
    assert hosts.same_port("[::]:0", "10.0.0.5:41234") == "[::]:41234"
    assert hosts.same_port("0.0.0.0:7070", "gate:17070") == "0.0.0.0:7070"


def test_an_interface_by_its_name(machine: dict[str, str]) -> None:
    """IPv4 first, link-local never; not there, down, or without an address: each in words, with those there are."""
    assert hosts.interface_address("eth0") == "10.0.0.5"
    assert hosts.interface_address("ib0") == "2001:db8:2::5"
    assert hosts.own_address("ib0") == "2001:db8:2::5"
    for name, text in {
        "eth9": "exchange.interface = 'eth9' is not on this machine; it has eth0, eth1, eth2, ib0, lo",
        "eth2": "exchange.interface = 'eth2' is down",
        "eth1": "exchange.interface = 'eth1' has no address",
    }.items():
        with pytest.raises(ConfigError) as caught:
            hosts.own_address(name)
        assert str(caught.value).startswith(f"{text}; ")


def test_the_interface_that_carries_an_address(machine: dict[str, str]) -> None:
    """All of 127.0.0.0/8 is loopback's; an address of another machine is carried by none."""
    assert hosts.interface_of("10.0.0.5") == "eth0"
    assert hosts.interface_of("127.0.1.1") == "lo"
    assert hosts.interface_of("10.0.0.6") is None
    assert hosts.interface_to("node2") == "eth0"
    assert hosts.interface_to("10.9.9.9") is None


def test_this_machines_own_address(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The default route's; else the name's, if it is an address here; else any; loopback if there is nothing else."""
    monkeypatch.setattr(hosts, "local_address", lambda host: "2001:db8:2::5")
    assert hosts.own_address() == "2001:db8:2::5"
    monkeypatch.setattr(hosts, "local_address", lambda host: None)
    machine["node1"] = "2001:db8:1::5"
    assert hosts.own_address() == "2001:db8:1::5"
    for stale in ("127.0.1.1", "10.7.7.7"):
        machine["node1"] = stale
        assert hosts.own_address() == "10.0.0.5"
    del machine["node1"]
    assert hosts.own_address() == "10.0.0.5"
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"lo": UP})
    assert hosts.own_address() == "127.0.0.1"


def test_the_route_on_this_machine_itself() -> None:
    """Loopback leads to loopback; its own address to itself."""
    assert hosts.local_address("127.0.0.1") == "127.0.0.1"
    assert hosts.interface_to("localhost") == hosts.interface_of("127.0.0.1")
    assert hosts.local_address(hosts.own_address()) == hosts.own_address()
    assert hosts.local_address("no-such-host.invalid") is None


# gloo and NCCL


def environment(**changes: str) -> dict[str, str]:
    """Of the first of two workers on two hosts."""
    made = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "10.0.0.6", "MASTER_PORT": "1"}
    return {**made, **changes}


@pytest.mark.parametrize(
    ("master", "chosen"),
    [
        ("node2", "eth0"),  # another host
        ("10.0.0.5", "eth0"),  # this one
        ("node1", "eth0"),  # this one by its own name, which is loopback here and not elsewhere
        ("127.0.0.1", "lo"),  # nobody is elsewhere
        ("nobody", None),
        ("10.9.9.9", None),
    ],
)
def test_the_interface_between_hosts_is_the_one_that_leads_to_the_meeting_point(
    machine: dict[str, str], master: str, chosen: str | None
) -> None:
    """Both libraries are told, NCCL the exact name; where nothing can be said, neither is."""
    made = environment(MASTER_ADDR=master)
    choose_interface(None, made)
    assert made.get("GLOO_SOCKET_IFNAME") == chosen
    assert made.get("NCCL_SOCKET_IFNAME") == (chosen and f"={chosen}")


def test_whose_word_counts(machine: dict[str, str]) -> None:
    """The configuration's beats the environment's, which beats what is found; on one host nothing is changed."""
    named = environment(GLOO_SOCKET_IFNAME="ib0")
    choose_interface(None, named)
    assert (named["GLOO_SOCKET_IFNAME"], named["NCCL_SOCKET_IFNAME"]) == ("ib0", "=eth0")
    choose_interface("eth0", named)
    assert (named["GLOO_SOCKET_IFNAME"], named["NCCL_SOCKET_IFNAME"]) == ("eth0", "=eth0")
    with pytest.raises(ConfigError, match=r"exchange\.interface = 'eth9'"):
        choose_interface("eth9", named)
    one = environment(LOCAL_WORLD_SIZE="2")
    for alone in (one, {}, {"WORLD_SIZE": "2", "MASTER_ADDR": "node2"}):
        before = dict(alone)
        choose_interface(None, alone)
        assert alone == before


def test_why_a_group_did_not_form(machine: dict[str, str]) -> None:
    """Where it would have met, what that resolves to here, and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as store:
        port = store.getsockname()[1]
        here = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        text = why_not_formed({**here, "LOCAL_WORLD_SIZE": "2"})
        assert text.startswith(
            f"it meets at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT), which takes connections; a me"
        )
        assert "another" not in text
        assert "127.0.0.1 is this machine itself, and members on other hosts look on theirs" in why_not_formed(here)
        assert "by interface eth0" in why_not_formed({**here, "GLOO_SOCKET_IFNAME": "eth0"})
    assert "and nothing listens there: look at" in why_not_formed({**here, "LOCAL_WORLD_SIZE": "2"})
    assert "in this process; a member may be missing" in why_not_formed({**here, "RANK": "0"})
    assert "node1 is 127.0.1.1 here, this machine itself" in why_not_formed(environment(MASTER_ADDR="node1", RANK="0"))
    assert "nobody does not resolve here: Name or" in why_not_formed(environment(MASTER_ADDR="nobody"))
    assert "MASTER_ADDR and MASTER_PORT do not say" in why_not_formed({})


# the coordinator, from a worker


def test_why_a_connection_failed(machine: dict[str, str]) -> None:
    """By the error and by what the name is: each sentence says what to do."""
    refused, unreachable = ConnectionRefusedError(111, "Connection refused"), OSError(113, "No route to host")
    for host, error, texts in (
        (
            "nobody",
            socket.gaierror(-2, "Name or service not known"),
            ("nobody does not resolve: Name or", "/etc/hosts"),
        ),
        ("node1", refused, ("nothing answers at node1:7: node1 is 127.0.1.1: this machine itself", "/etc/hosts here")),
        ("node2", refused, ("nothing answers at node2:7: the connection was refused", "bind it beyond loopback")),
        ("127.0.0.1", refused, ("at 127.0.0.1:7: the connection was refused; start the coordinator there",)),
        ("2001:db8::7", unreachable, ("at [2001:db8::7]:7: No route to host", "firewall", "exchange.interface")),
        ("node2", TimeoutError("timed out"), ("at node2:7: timed out", "firewall", "exchange.interface")),
    ):
        found = str(hosts.connection_trouble(host, 7, error))
        for text in texts:
            assert text in found
    assert "beyond" not in str(hosts.connection_trouble("127.0.0.1", 7, refused))


def test_a_worker_says_why_it_cannot_reach_its_coordinator() -> None:
    """Whether trying again is pointless goes with the sentence: an address that is none never becomes one."""
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        refused = (
            f"nothing answers at 127.0.0.1:{port}: the connection was refused; start the coordinator there",
            False,
        )
        assert Access(f"127.0.0.1:{port}").diagnose() == refused
    text, hopeless = Access("no-such-host.invalid:7070").diagnose()
    assert text.startswith("no-such-host.invalid does not resolve: ")
    assert not hopeless
    assert Access("nonsense").diagnose()[1]
