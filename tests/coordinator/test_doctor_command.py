"""`coordinator doctor` as an operator runs it, on a machine with several planted faults, and on the same without."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.certificates import make_certs
from tests.commands import BIN, TINY, run, settings
from tests.conftest import Start

DOCTOR = (str(BIN / "coordinator"), "doctor", "config.yaml", "--json")
TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
ISOLATED = ("unshare", "--mount", "--uts", "bash", "-ec")


def examined(folder: Path, command: Sequence[str], code: int, **environment: str) -> list[dict[str, Any]]:
    """What the command finds, an object a line; no secret is in it."""
    exit_code, output = run(command, folder, PEERS_TOKEN="", **environment)
    assert exit_code == code, output
    assert TOKEN not in output
    return [json.loads(text) for text in output.splitlines()]


def bad(findings: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """How many findings are not ok, by level and name; each says what to do."""
    wrong = [finding for finding in findings if finding["level"] != "ok"]
    assert all(set(finding) == {"level", "name", "text", "remedy"} for finding in findings)
    assert all(finding["remedy"] for finding in wrong), wrong
    return Counter((finding["level"], finding["name"]) for finding in wrong)


def grounds(folder: Path, *, days: int, mode: int) -> None:
    """An empty configuration, certificates and a token."""
    (folder / "config.yaml").write_text("{}\n")
    files = make_certs(folder / "certs", ["127.0.0.1"], days=days)
    (folder / "token").write_text(TOKEN)
    for path in (folder / "token", files.server_key):
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
        findings = bad(examined(faulty, limited, 2, PYTHONPATH=str(faulty / "packages")))
    well = settings(*elastic, *listens, *TINY, "exchange.interface=lo", "coordinator.advertise=127.0.0.1")
    planted_faults = Counter(
        {
            ("error", "packages"): 1,
            ("warning", "processor"): 1,
            ("error", "data"): 1,
            ("error", "open files"): 1,
            ("error", "interface"): 1,
            ("error", "advertise"): 1,
            ("error", "ports"): 2,
            ("warning", "token"): 1,
            ("error", "certificates"): 4,  # authority, coordinator's twice (its name is not the advertised one), peers'
            ("warning", "certificates"): 1,
        }
    )
    assert planted_faults <= findings, findings
    names = {name for _, name in planted_faults}
    assert not names & {name for _, name in bad(examined(good, (*DOCTOR, *well), 0))}


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
    shrink = "mount -t tmpfs -o size=16k none /dev/shm; mount -t tmpfs -o size=64k none runs; hostname no-such-host"
    doctor = (*DOCTOR, *sets, *access)
    findings = examined(tmp_path, (*ISOLATED, f'{shrink}; exec "$@"', "bash", *doctor), 2)
    small = {("error", "disk"), ("warning", "shared memory"), ("warning", "host name")}
    assert small <= set(bad(findings))
    answered = {finding["name"]: finding["level"] for finding in findings}
    assert answered["coordinator"] == answered["clock"] == "ok"
    assert not small & set(bad(examined(tmp_path, doctor, 0)))
