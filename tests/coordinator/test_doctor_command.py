"""`coordinator doctor` as an operator runs it, on a machine with several planted faults, and on the same without."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.certificates import make_certs
from coordinator.doctor.storage import SHARED
from tests.commands import BIN, TINY, run, settings
from tests.conftest import Start

DOCTOR = (str(BIN / "coordinator"), "doctor", "config.yaml", "--json")
TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
ISOLATED = ("unshare", "--mount", "--uts", "bash", "-ec")


def examined(folder: Path, command: Sequence[str], code: int, **environment: str) -> list[dict[str, Any]]:
    """What the command finds, an object a line; no secret is in it."""
    found, output = run(command, folder, PEERS_TOKEN="", **environment)
    assert found == code, output
    assert TOKEN not in output
    return [json.loads(text) for text in output.splitlines()]


def bad(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Findings that are not ok, by their first words; each says what to do."""
    wrong = [finding for finding in findings if finding["level"] != "ok"]
    assert all(finding["remedy"] for finding in wrong), wrong
    return {f"{finding['level']}: {finding['name']}: {finding['text']}": finding for finding in wrong}


def names(findings: dict[str, dict[str, Any]]) -> set[str]:
    """Checks that found something wrong."""
    return {finding["name"] for finding in findings.values()}


def grounds(folder: Path, *, days: int, mode: int) -> None:
    """An empty configuration, certificates and a token."""
    (folder / "config.yaml").write_text("{}\n")
    made = make_certs(folder / "certs", ["127.0.0.1"], days=days)
    (folder / "token").write_text(TOKEN)
    for path in (folder / "token", made.server_key):
        path.chmod(mode)


def test_a_machine_with_ten_faults_and_the_same_without(tmp_path: Path) -> None:
    """Each fault is found by its name, among the others; without them the same command finds none and ends with 0."""
    elastic = ("exchange.kind=coordinator", "security.certs=certs", "security.token_file=token", "security.mutual=true")
    good, faulty = tmp_path / "good", tmp_path / "faulty"
    for folder in (good, faulty):
        folder.mkdir()
    grounds(good, days=100, mode=0o600)
    grounds(faulty, days=0, mode=0o644)
    stale = faulty / "packages" / "safetensors-0.1.dist-info"
    stale.mkdir(parents=True)
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.1\n")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [taken.getsockname()[1] for taken in (one, two)]
        listens = (f"coordinator.bind=127.0.0.1:{ports[0]}", f"coordinator.metrics_port={ports[1]}")
        planted = settings(
            *elastic,
            *listens,
            "data.batch=100000",
            "exchange.interface=eth99",
            "coordinator.advertise=no-such-host.invalid",
            "group.peers=32",
            "group.threads=1000",
        )
        limited = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *DOCTOR, *planted)
        found = bad(examined(faulty, limited, 2, PYTHONPATH=str(faulty / "packages")))
    well = settings(*elastic, *listens, *TINY, "exchange.interface=lo", "coordinator.advertise=127.0.0.1")
    for words in (
        "error: packages: safetensors is 0.1, expected >=0.5",
        "warning: processor: ",
        "error: data: data.batch is 100000",
        "error: open files: at most 64 at a time, 32 peers need 112",
        "error: interface: exchange.interface = 'eth99' is not on this machine",
        "error: advertise: coordinator.advertise = 'no-such-host.invalid' does not resolve",
        f"error: ports: coordinator.bind: 127.0.0.1:{ports[0]} is taken",
        f"error: ports: coordinator.metrics_port: 127.0.0.1:{ports[1]} is taken",
        "warning: token: security.token_file = 'token' can be read by others (mode 0644)",
        "error: certificates: certs/ca.pem expired on",
        "error: certificates: certs/server.pem expired on",
        "warning: certificates: certs/server.key can be read by others (mode 0644)",
    ):
        assert any(text.startswith(words) for text in found), (words, list(found))
    assert not names(found) & names(bad(examined(good, (*DOCTOR, *well), 0)))


def test_full_disks_and_a_nameless_host(tmp_path: Path, start: Start) -> None:
    """No room for checkpoints or payloads, and no name of its own; a coordinator elsewhere answers all the same."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*ISOLATED, "mount -t tmpfs none /mnt"], check=False).returncode
    ):
        pytest.skip("mounts and host names of its own need root: unshare --mount --uts is not possible here")
    grounds(tmp_path, days=100, mode=0o600)
    (tmp_path / "runs").mkdir()
    sets = settings(*TINY, "run.name=run")
    secured = settings("security.certs=certs", "security.token_file=token")
    serving = ("serve", "config.yaml", *sets, *secured, "--address-file", "address")
    start((str(BIN / "coordinator"), *serving), tmp_path, name="serve").until((tmp_path / "address").is_file)
    access = ("--address", (tmp_path / "address").read_text(), "--certs", "certs", "--token-file", "token")
    small = "mount -t tmpfs -o size=16k none /dev/shm; mount -t tmpfs -o size=64k none runs; hostname no-such-host"
    doctor = (*DOCTOR, *sets, *access)
    findings = examined(tmp_path, (*ISOLATED, f'{small}; exec "$@"', "bash", *doctor), 2)
    found = bad(findings)
    for words in (
        "error: disk: run.out = 'runs': 64.0 KiB free, 2 checkpoints of",
        f"warning: shared memory: {SHARED}: 16.0 KiB free, 4 peers on one machine need 72.0 KiB",
        "warning: host name: this machine's name 'no-such-host' does not resolve",
    ):
        assert any(text.startswith(words) for text in found), (words, list(found))
    answered = {finding["name"]: finding for finding in findings}
    assert "answers: run run, forming, round 0 of 100" in answered["coordinator"]["text"]
    assert answered["clock"]["level"] == "ok"
    assert not {"disk", "shared memory"} & names(bad(examined(tmp_path, doctor, 0)))
