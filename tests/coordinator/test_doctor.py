"""The doctor's checks: each finds its fault, with its level, and nothing where there is none."""

from __future__ import annotations

import datetime
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.certificates import make_certs
from coordinator.doctor import credentials, machine, network, software
from coordinator.doctor.examine import CHECKS, doctor, examine, line
from coordinator.doctor.findings import Finding, Subject, grade
from coordinator.doctor.machine import Gpus
from peers.common.errors import DataError
from tests.commands import TINY, Running, settings
from tests.coordinator.examined import graded, levels, subject

TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
SHIFTED = (
    "import sys, time; true, ahead = time.time, float(sys.argv.pop(1)); time.time = lambda: true() + ahead; "
    "from coordinator.cli import main; sys.exit(main())"
)
"""`coordinator` on a machine whose clock is wrong."""
OK, WARNING, ERROR = "ok", "warning", "error"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no secret or images but those that a test gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    monkeypatch.delenv("PEERS_DATA", raising=False)


# the command


def test_the_defaults_are_well_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a configuration the defaults are examined: a line a finding, a sum, exit code 0, nothing left behind."""
    assert doctor(None, (), None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {text[8:24].strip() for text in lines[:-1] if text[0] != " "}
    conditional = {"interface", "advertise", "coordinator"}
    assert names == set(CHECKS) - conditional | {"python", "CUDA", "fingerprint"}
    assert lines[-1].startswith("0 errors, ")
    assert not Path("runs").exists()


def test_a_check_that_fails_is_a_finding_and_the_others_still_run() -> None:
    """Whatever a check raises becomes an error with its text; what it had found before stands."""

    def broken(_subject: Subject) -> Iterator[Finding]:
        yield grade("first", "well")
        raise RuntimeError("the disk is on fire")

    def refused(_subject: Subject) -> Iterator[Finding]:
        yield from ()
        raise DataError("no images")

    def well(_subject: Subject) -> Iterator[Finding]:
        yield grade("last", "well")

    findings = list(examine(subject(), {"broken": broken, "refused": refused, "last": well}))
    assert [finding.name for finding in findings] == ["first", "broken", "refused", "last"]
    assert graded(findings) == [OK, ERROR, ERROR, OK]
    assert "RuntimeError: the disk is on fire" in findings[1].text
    assert findings[2].text == "no images"


def test_a_finding_is_readable_and_coloured() -> None:
    """Further lines and the remedy stand below the text; the level alone has its colour."""
    text = line(Finding("error", "disk", "full\nreally", "free [some]"))
    assert text.plain.splitlines() == [
        "error   disk            full",
        f"{'':24}really",
        f"{'':24}-> free [some]",
    ]
    assert [str(span.style) for span in text.spans if span.start == 0] == ["bold red"]


def test_the_doctor_starts_without_what_it_looks_for() -> None:
    """Its modules import neither torch nor gRPC nor the other packages whose absence it has to report."""
    slow = {"torch", "grpc", "cryptography", "psutil", "packaging", "numpy"}
    code = f"import sys, coordinator.doctor.examine; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# software


def test_configurations() -> None:
    """One that cannot be loaded, or whose coordinator would not start, is an error; others are well."""
    Path("config.yaml").write_text("network: {width: -1}\nlauncher: {max_restart: 3}\n")
    broken = Subject.of("config.yaml")
    (finding,) = software.configuration(broken)
    assert finding.level == ERROR
    assert "network.width = -1" in finding.text
    assert "max_restarts" in finding.text
    assert broken.peers == 4  # of the defaults, which the other checks use
    assert graded(software.configuration(Subject.of("missing.yaml"))) == [ERROR]
    Path("config.yaml").write_text("network: {width: 32}\n")
    assert graded(software.configuration(Subject.of("config.yaml"))) == [OK]
    public = "coordinator.bind=0.0.0.0:0"  # beyond loopback, without TLS and token
    assert levels(software.configuration, "exchange.kind=coordinator", public) == [ERROR]
    assert levels(software.configuration, "exchange.kind=coordinator", public, "security.insecure=true") == [OK]
    assert levels(software.configuration, public, address="node1:7070") == [OK]


def test_launchers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm without its programs and Ray that cannot be imported are errors where they are to launch, only there."""
    assert levels(software.launcher) == levels(software.launcher, "launcher=ray") == [OK]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert levels(software.launcher, "launcher=slurm") == [ERROR]
    for program in software.PROGRAMS:
        (tmp_path / program).touch(0o755)
    assert levels(software.launcher, "launcher=slurm") == [OK]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert levels(software.launcher, "launcher=ray") == [ERROR]
    assert levels(software.launcher) == [OK]


@pytest.mark.parametrize(("package", "requires"), [("safetensors 0.1", ""), ("torchvision 0.99", "torch==9.9")])
def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, requires: str) -> None:
    """A requirement that is too old, or built for another torch, is an error; here all fit."""
    assert set(levels(software.packages)) == {OK}
    name, version = package.split()
    (tmp_path / f"{name}-{version}.dist-info").mkdir()
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (requires and f"Requires-Dist: {requires}\n")
    (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(tmp_path)
    bad = [finding for finding in software.packages(subject()) if finding.level != OK]
    assert any(finding.level == ERROR and (requires or name).split("=")[0] in finding.text for finding in bad)


def test_images() -> None:
    """Missing images, and a batch larger than all of them, are errors; images to be fetched a warning, not fetched."""
    assert levels(software.data, *TINY) == [OK, OK]
    sets = ("data.name=cifar10", "data.root=nowhere")
    assert levels(software.data, *sets) == [ERROR]
    assert levels(software.data, *sets, "data.download=true") == [WARNING]
    assert not Path("nowhere").exists()
    assert levels(software.data, *TINY, "data.batch=1000") == [ERROR]


# the machine


def test_cores() -> None:
    """More than four compute threads a core are a warning, where workers start here."""
    assert levels(machine.processor, "group.threads=1", "group.peers=2") == [OK]
    sets = ("group.threads=1000", "group.peers=8")
    assert levels(machine.processor, *sets) == [WARNING]
    assert levels(machine.processor, *sets, "launcher=slurm") == [OK]


GIB = 2**30
NONE = Gpus()
H100 = Gpus((70 * GIB,), ("H100",), 1, nccl=True)
FOUR = Gpus(H100.free * 4, H100.names * 4, 4, nccl=True)


@pytest.mark.parametrize(
    ("gpus", "sets", "address", "bad"),
    [
        (NONE, (), None, []),
        (NONE, ("device=cuda", "launcher=slurm"), None, []),
        (NONE, ("device=cuda",), None, [ERROR]),
        (replace(NONE, present=2), (), None, [WARNING]),
        (replace(NONE, present=2), ("device=cuda",), None, [ERROR]),
        (H100, ("group.peers_per_worker=4",), None, []),
        (H100, ("device=cpu",), None, []),
        (H100, ("exchange.kind=coordinator",), None, []),
        (H100, (), "node1:7070", []),
        (H100, (), None, [ERROR]),  # two ranks on one
        (H100, ("group.peers_per_worker=4", "network.width=40000"), None, [WARNING]),  # too little memory
        (FOUR, (), None, []),
        (replace(FOUR, nccl=False), (), None, [ERROR]),
    ],
)
def test_gpus_fit_the_group(gpus: Gpus, sets: tuple[str, ...], address: str | None, bad: list[str]) -> None:
    """No GPU where one is asked for, two ranks on one, no NCCL, too little memory; otherwise nothing."""
    every = graded(machine.judge(gpus, subject(*TINY, *sets, address=address)))
    assert [level for level in every if level != OK] == bad


def test_disks() -> None:
    """A file where a folder should be is an error, and so are checkpoints larger than any disk; nothing is written."""
    Path("file").touch()
    assert levels(machine.disk, *TINY, "run.out=file/runs") == [ERROR]
    assert levels(machine.disk, *TINY, "coordinator.state=file") == [OK, ERROR]
    assert levels(machine.disk, *TINY, "coordinator.state=state") == [OK, OK]
    assert levels(machine.disk, *TINY, "network.width=65536", "network.depth=100", "group.peers=4096") == [ERROR]
    assert [path.name for path in Path().iterdir()] == ["file"]


# the network


def test_names_of_this_machine() -> None:
    """An interface that is not there, and names that lead peers nowhere or to themselves, are errors."""
    assert levels(network.interface) == levels(network.advertise) == []
    assert levels(network.interface, "exchange.interface=lo") == [OK]
    assert levels(network.interface, "exchange.interface=eth99") == [ERROR]
    assert levels(network.advertise, "coordinator.advertise=no-such-host.invalid") == [ERROR]
    public, local = "coordinator.bind=0.0.0.0:7070", "coordinator.advertise=localhost:7070"
    assert levels(network.advertise, local, public) == [ERROR]
    assert levels(network.advertise, local) == [OK]
    assert levels(network.advertise, "coordinator.advertise=10.0.0.5", public) == [OK]


def test_ports() -> None:
    """Ports that are taken, by others or by each other, and addresses of other machines are errors."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        bind, metrics = f"coordinator.bind=127.0.0.1:{port}", f"coordinator.metrics_port={port}"
        assert levels(network.ports, bind) == [ERROR]
        assert levels(network.ports, metrics) == [OK, ERROR]
    assert levels(network.ports, bind) == levels(network.ports, "coordinator.bind='[::1]:0'") == [OK]
    assert levels(network.ports, bind, metrics) == [OK, ERROR]
    foreign = "coordinator.bind=203.0.113.7:7070"
    assert levels(network.ports, foreign) == levels(network.ports, "coordinator.bind='7070'") == [ERROR]
    assert levels(network.ports, foreign, address="a:1") == levels(network.ports, foreign, "launcher=slurm") == []


# secrets


def test_tokens() -> None:
    """Unreadable, empty or short is an error, readable by others a warning."""
    file = Path("token")
    assert levels(credentials.token) == [OK]
    assert levels(credentials.token, "security.token_file=token") == [ERROR]
    for text, mode, level in (("", 0o600, ERROR), ("short", 0o600, ERROR), (TOKEN, 0o640, WARNING), (TOKEN, 0o600, OK)):
        file.write_text(text)
        file.chmod(mode)
        assert levels(credentials.token, "security.token_file=token") == [level]


def test_certificate_files() -> None:
    """Missing, foreign, open to others, or no certificate at all, for the files that are needed."""
    sets = ("security.certs=certs",)
    assert levels(credentials.certificates, *sets) == [ERROR, ERROR]  # authority and coordinator
    for folder in ("certs", "other"):
        make_certs(folder, ["127.0.0.1"])
    key, ca, others = Path("certs/server.key"), Path("certs/ca.pem"), Path("other")
    assert levels(credentials.certificates, *sets, "security.mutual=true") == [OK] * 5
    key.chmod(0o644)
    assert levels(credentials.certificates, *sets) == [OK, OK, WARNING, OK, OK]
    key.chmod(0o600)
    right = key.read_bytes()
    for wrong in ((others / "server.key").read_bytes(), b"nonsense"):
        key.write_bytes(wrong)
        assert levels(credentials.certificates, *sets) == [OK, OK, ERROR, OK, OK]
    key.write_bytes(right)
    ca.write_bytes((others / "ca.pem").read_bytes())
    assert levels(credentials.certificates, *sets) == [OK, OK, ERROR, OK, OK, ERROR, OK]  # neither is signed by it
    ca.write_text("nonsense")
    assert levels(credentials.certificates, *sets)[0] == ERROR
    for name in ("server.pem", "server.key", "peer.pem", "peer.key"):
        (others / name).unlink()
    assert levels(credentials.certificates, "security.certs=other", address="node1:7070") == [OK]


@pytest.mark.parametrize(("days", "level"), [(0, OK), (80, WARNING), (101, ERROR), (-1, ERROR)])
def test_days_of_certificates(days: int, level: str) -> None:
    """Expired and not yet valid are errors, the last thirty days a warning, of the authority as of the others."""
    make_certs("certs", ["127.0.0.1"], days=100)
    today = subject("security.certs=certs")
    then = replace(today, now=today.now + datetime.timedelta(days=days))
    assert graded(credentials.certificates(then)) == [level, level, OK, level, OK]


def test_names_of_certificates() -> None:
    """What peers will call the coordinator must be in its certificate: name or address, as bound or as advertised."""
    make_certs("certs", ["Node1.example", "10.0.0.5", "*.wild.example"])
    certs, bind = "security.certs=certs", "coordinator.bind=0.0.0.0:7070"

    def wrong(*sets: str, address: str | None = None) -> bool:
        return ERROR in levels(credentials.certificates, certs, *sets, address=address)

    for name in ("node1.example", "node1.example:7070", "10.0.0.5", "a.wild.example"):
        assert not wrong(bind, f"coordinator.advertise={name}"), name
    for name in ("node2.example", "10.0.0.6", "a.b.wild.example"):
        assert wrong(bind, f"coordinator.advertise={name}"), name
    assert not wrong(bind)
    assert wrong()
    assert wrong(address="node3:7070")
    ca, peer = (credentials.load(Path("certs", name)) for name in ("ca.pem", "peer.pem"))
    assert graded(credentials.judge("peer", peer, ca, ("node1",), subject())) == [OK, ERROR]  # it is made for no name


# the coordinator


@pytest.mark.parametrize(
    ("ahead", "doubt", "tls", "level"),
    [
        (0.5, 0.1, True, OK),
        (-2.5, 0.1, False, WARNING),
        (2.5, 1.0, False, OK),
        (301.0, 0.1, True, ERROR),
        (-301.0, 0.1, True, ERROR),
        (301.0, 0.1, False, WARNING),
    ],
)
def test_clocks(ahead: float, doubt: float, tls: bool, level: str) -> None:
    """A difference within the call's own duration is none; minutes are an error where TLS is on."""
    assert network.judge_clock(ahead, doubt, tls=tls).level == level


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


def reached(subject: Subject) -> list[tuple[str, str]]:
    """Name and level of each finding about a coordinator."""
    findings = list(examine(subject, {"coordinator": network.coordinator}))
    return list(zip((finding.name for finding in findings), graded(findings), strict=True))


def test_a_coordinator_whose_clock_is_wrong(service: Callable[[float], tuple[Path, str]]) -> None:
    """It answers, its certificate is judged, and its clock is an error: an hour ahead."""
    folder, address = service(3600.0)
    secrets = (f"security.certs={folder}/certs", f"security.token_file={folder}/token")
    names = ("name", "reachable", "certificates", "coordinator")
    assert reached(subject(*secrets, address=address)) == [*((name, OK) for name in names), ("clock", ERROR)]


def test_a_coordinator_that_does_not_let_us_in(service: Callable[[float], tuple[Path, str]]) -> None:
    """Another token, another authority, no TLS, another run: each is an error; with the right ones all is well."""
    folder, address = service(0.0)
    make_certs("others", ["127.0.0.1"])
    Path("wrong").write_text("not the secret of this group")
    certs, token = f"security.certs={folder}/certs", f"security.token_file={folder}/token"

    def errors(*sets: str) -> list[str]:
        return [name for name, level in reached(subject(*sets, address=address)) if level != OK]

    assert errors(certs, token) == []
    assert errors(certs, "security.token_file=wrong") == ["coordinator"]
    assert errors(token) == ["coordinator"]
    assert errors("security.certs=others", token) == ["certificates", "coordinator"]
    Path("config.yaml").write_text("run: {name: here}\n")
    other = Subject.of("config.yaml", (certs, token), address)
    assert ("coordinator", ERROR) in reached(other)


def test_addresses_where_nobody_answers() -> None:
    """No HOST:PORT, no such name, nobody listening: each ends the search with an error."""
    assert reached(subject(address="nonsense")) == [("coordinator", ERROR)]
    assert reached(subject(address="no-such-host.invalid:1")) == [("name", ERROR)]
    assert reached(subject(address="127.0.0.1:1")) == [("name", OK), ("reachable", ERROR)]
    assert reached(subject()) == []
