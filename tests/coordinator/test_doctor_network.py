"""The doctor's checks of the network, secrets and a coordinator: each finds its fault, and nothing where it is not."""

from __future__ import annotations

import datetime
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.certificates import make_certs
from coordinator.doctor import credentials, network, reach
from coordinator.doctor.certificate import judge
from coordinator.doctor.findings import Finding, Subject
from tests.commands import Running, settings
from tests.coordinator.examined import fault, faults, levels, subject

TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
SHIFT = 3600.0
"""Seconds that the coordinator's clock of these tests is ahead."""
SHIFTED = (
    "import sys, time; true, ahead = time.time, float(sys.argv.pop(1)); time.time = lambda: true() + ahead; "
    "from coordinator.cli import main; sys.exit(main())"
)
"""`coordinator` on a machine whose clock is wrong."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no secret or images but those that a test gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    monkeypatch.delenv("PEERS_DATA", raising=False)


# the network


def test_interfaces() -> None:
    """One that is not there is an error which lists those that are; the loopback one is up everywhere."""
    assert levels(network.interface, "exchange.interface=lo") == ["ok"]
    bad = fault(network.interface(subject("exchange.interface=eth99")), "error", "exchange.interface = 'eth99'")
    assert "lo" in bad.text
    assert levels(network.interface) == []


def test_what_peers_are_told_leads_here() -> None:
    """A name that does not resolve, or leads everybody to their own machine, is an error."""
    nowhere = "coordinator.advertise=no-such-host.invalid"
    fault(network.advertise(subject(nowhere)), "error", "'no-such-host.invalid' does not resolve")
    itself = ("coordinator.advertise=localhost:7070", "coordinator.bind=0.0.0.0:7070")
    fault(network.advertise(subject(*itself)), "error", "'localhost:7070' is", "127.0.0.1")
    assert levels(network.advertise, itself[0]) == ["ok"]
    assert levels(network.advertise, "coordinator.advertise=10.0.0.5", "coordinator.bind=0.0.0.0:7070") == ["ok"]


def test_ports_that_are_taken() -> None:
    """The field, the port and its holder are named; an address of another machine is no free port either."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        fault(network.ports(subject(f"coordinator.bind=127.0.0.1:{port}")), "error", f"bind: 127.0.0.1:{port} is taken")
        metrics = subject(f"coordinator.metrics_port={port}")
        taken = f"metrics_port: 127.0.0.1:{port} is taken by "
        fault(network.ports(metrics), "error", taken, f"(process {os.getpid()})")
    assert levels(network.ports, f"coordinator.bind=127.0.0.1:{port}") == ["ok"]
    both = (f"coordinator.bind=127.0.0.1:{port}", f"coordinator.metrics_port={port}")
    fault(network.ports(subject(*both)), "error", f"metrics_port = {port} is the port of coordinator.bind")
    foreign = "coordinator.bind=203.0.113.7:7070"
    fault(network.ports(subject(foreign)), "error", "203.0.113.7:7070: this machine has no such address")
    fault(network.ports(subject("coordinator.bind='7070'")), "error", "coordinator.bind = '7070': expected HOST:PORT")
    assert levels(network.ports, "coordinator.bind='[::1]:0'") == ["ok"]
    assert (
        levels(network.ports, foreign, address="node1:7070") == levels(network.ports, foreign, "launcher=slurm") == []
    )


# secrets


def test_tokens() -> None:
    """Unreadable, empty or short is an error, readable by others a warning."""
    sets = ("security.token_file=token",)
    fault(credentials.token(subject(*sets)), "error", "security.token_file = 'token' cannot be read")
    Path("token").touch(0o600)
    fault(credentials.token(subject(*sets)), "error", "is empty")
    Path("token").write_text("short")
    fault(credentials.token(subject(*sets)), "error", "has 5 characters, expected at least 16")
    Path("token").write_text(TOKEN)
    Path("token").chmod(0o640)
    bad = fault(credentials.token(subject(*sets)), "warning", "can be read by others (mode 0640)")
    assert bad.remedy == "chmod 600 token"
    Path("token").chmod(0o600)
    assert levels(credentials.token, *sets) == levels(credentials.token) == ["ok"]


def test_certificate_files() -> None:
    """Missing, foreign, open to others, or no certificate at all: each file by its name."""
    sets = ("security.certs=certs",)
    text = " ".join(one.text for one in credentials.certificates(subject(*sets)))
    assert "certs/ca.pem cannot be read" in text
    assert "certs/server.pem cannot be read" in text
    for folder in ("certs", "other"):
        make_certs(folder, ["127.0.0.1"])
    assert set(levels(credentials.certificates, *sets)) == {"ok"}
    assert set(levels(credentials.certificates, *sets, "security.mutual=true")) == {"ok"}
    key = Path("certs/server.key")
    key.chmod(0o644)
    fault(credentials.certificates(subject(*sets)), "warning", "certs/server.key can be read by others (mode 0644)")
    key.chmod(0o600)
    mine = key.read_bytes()
    key.write_bytes(Path("other/server.key").read_bytes())
    fault(credentials.certificates(subject(*sets)), "error", "certs/server.key is not the key of certs/server.pem")
    key.write_text("nonsense")
    fault(credentials.certificates(subject(*sets)), "error", "certs/server.key holds no private key")
    key.write_bytes(mine)
    Path("certs/ca.pem").write_bytes(Path("other/ca.pem").read_bytes())
    bad = [one.text for one in faults(credentials.certificates(subject(*sets)))]
    assert bad == [f"certs/{name}.pem is not signed by the authority in ca.pem" for name in ("server", "peer")]
    Path("certs/ca.pem").write_text("nonsense")
    fault(credentials.certificates(subject(*sets)), "error", "certs/ca.pem holds no certificate")
    for name in ("server.pem", "server.key", "peer.pem", "peer.key"):
        Path("other", name).unlink()
    assert levels(credentials.certificates, "security.certs=other", address="node1:7070") == ["ok"]


def test_days_of_certificates() -> None:
    """Expired and not yet valid are errors, the last thirty days a warning, of the authority as of the others."""
    make_certs("certs", ["127.0.0.1"], days=100)
    today = subject("security.certs=certs")
    for days, level, words in (
        (80, "warning", "for another 19 days"),
        (101, "error", "expired on"),
        (-1, "error", "not valid before"),
    ):
        then = replace(today, now=today.now + datetime.timedelta(days=days))
        bad = faults(credentials.certificates(then))
        assert [(one.level, words in one.text) for one in bad] == [(level, True)] * 3
        assert [Path(one.text.split()[0]).name for one in bad] == ["ca.pem", "server.pem", "peer.pem"]
    assert {one.level for one in credentials.certificates(today)} == {"ok"}


def test_names_of_certificates() -> None:
    """What peers will call the coordinator must be in its certificate: name or address, as bound or as advertised."""
    make_certs("certs", ["Node1.example", "10.0.0.5", "*.wild.example"])
    certs, bind = "security.certs=certs", "coordinator.bind=0.0.0.0:7070"
    for told in ("node1.example", "node1.example:7070", "10.0.0.5", "a.wild.example"):
        assert set(levels(credentials.certificates, certs, bind, f"coordinator.advertise={told}")) == {"ok"}
    for told in ("node2.example", "10.0.0.6", "a.b.wild.example"):
        told_ = subject(certs, bind, f"coordinator.advertise={told}")
        bad = fault(
            credentials.certificates(told_), "error", "Node1.example, *.wild.example, 10.0.0.5", f"peers use {told}"
        )
        assert f"--host {told}" in bad.remedy
    fault(credentials.certificates(subject(certs)), "error", "peers use 127.0.0.1")
    fault(credentials.certificates(subject(certs, address="node3:7070")), "error", "peers use node3")


def test_a_certificate_without_names() -> None:
    """A peer's own certificate, shown in a coordinator's place, speaks for nobody."""
    made = make_certs("certs", ["node1"])
    ca, peer = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.ca, made.peer))
    fault(judge("it", peer, ca, ("node1",), subject().now), "error", "it is made for no name")


# the coordinator


@pytest.mark.parametrize(
    ("ahead", "doubt", "tls", "level"),
    [
        (0.5, 0.1, True, "ok"),
        (-2.5, 0.1, False, "warning"),
        (2.5, 1.0, False, "ok"),
        (301.0, 0.1, True, "error"),
        (-301.0, 0.1, True, "error"),
        (301.0, 0.1, False, "warning"),
    ],
)
def test_clocks(ahead: float, doubt: float, tls: bool, level: str) -> None:
    """What cannot be told from the call's own duration is no difference; minutes are an error where TLS is on."""
    found = reach.judge_clock(ahead, doubt, tls=tls)
    assert found.level == level
    assert f"{abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}" in found.text
    assert bool(found.remedy) == (level != "ok")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], tuple[Path, str]]]:
    """Starts coordinators with TLS and a token whose clocks are ahead; each gives its folder and its address."""
    started: list[Running] = []

    def begin(ahead: float) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("service")
        make_certs(folder / "certs", ["127.0.0.1"])
        (folder / "token").touch(0o600)
        (folder / "token").write_text(TOKEN)
        (folder / "config.yaml").write_text("{}\n")
        sets = settings("run.name=there", "security.certs=certs", "security.token_file=token")
        command = (sys.executable, "-c", SHIFTED, str(ahead), "serve", "config.yaml", *sets)
        started.append(Running((*command, "--address-file", "address"), folder))
        started[-1].until((folder / "address").is_file)
        return folder, (folder / "address").read_text()

    yield begin
    for running in started:
        running.reap()


def test_a_coordinator_whose_clock_is_wrong(service: Callable[[float], tuple[Path, str]]) -> None:
    """It answers, its certificate is judged, and its clock is an error: an hour ahead, to the second."""
    folder, address = service(SHIFT)
    secrets = (f"security.certs={folder}/certs", f"security.token_file={folder}/token")
    bad = fault(
        reach.coordinator(subject(*secrets, address=address)), "error", "s ahead, ", "certificates are not valid"
    )
    assert abs(float(bad.text.split(" is ")[1].split(" s ")[0]) - SHIFT) < 2
    assert bad.name == "clock"
    shown = [one.text for one in reach.coordinator(subject(*secrets, address=address)) if one.name == "certificates"]
    assert len(shown) == 1
    assert f"the coordinator's at {address} is valid until" in shown[0]


def test_a_coordinator_that_does_not_let_us_in(service: Callable[[float], tuple[Path, str]]) -> None:
    """Another token, another authority, no TLS, another run: each is told; with the right ones all is well."""
    folder, address = service(0.0)
    make_certs("others", ["127.0.0.1"])
    Path("wrong").write_text("not the secret of this group")
    certs, token = f"security.certs={folder}/certs", f"security.token_file={folder}/token"

    def found(*sets: str) -> Iterator[Finding]:
        return reach.coordinator(subject(*sets, address=address))

    assert [(one.name, one.level) for one in found(certs, token)] == [
        (name, "ok") for name in ("name", "reachable", "certificates", "coordinator", "clock")
    ]
    fault(found(certs, "security.token_file=wrong"), "error", "does not accept this token")
    fault(found(token), "error", "speaks TLS: give its authority's certificate")
    foreign = [one for one in found("security.certs=others", token) if one.level == "error"]
    assert "is not signed by the authority in ca.pem" in foreign[0].text
    Path("config.yaml").write_text("run: {name: here}\n")
    other = Subject.of("config.yaml", (certs, token), address)
    fault(reach.coordinator(other), "error", "run there, forming", "the configuration's run is here")


def test_addresses_where_nobody_answers() -> None:
    """No HOST:PORT, no such name, nobody listening: each ends the search with what to do."""
    fault(reach.coordinator(subject(address="nonsense")), "error", "address 'nonsense': expected HOST:PORT")
    fault(
        reach.coordinator(subject(address="no-such-host.invalid:1")), "error", "no-such-host.invalid does not resolve"
    )
    fault(reach.coordinator(subject(address="127.0.0.1:1")), "error", "nothing answers at 127.0.0.1:1", "refused")
    assert list(reach.coordinator(subject())) == []
