"""The doctor's checks of the configuration and of the machine: each finds its fault, and nothing where it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.doctor import findings, group, images, processors, software, storage
from coordinator.doctor.examine import doctor, examine, line
from coordinator.doctor.findings import Finding, Subject, ok
from coordinator.doctor.processors import Gpus
from peers.common.errors import DataError
from tests.commands import TINY
from tests.coordinator.examined import fault, faults, levels, subject

GIB = 2**30
H100 = Gpus((70 * GIB,), (80 * GIB,), ("H100",), 1, "580.1", "2.12", "13.0", "2.30")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no secret or images but those that a test gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    monkeypatch.delenv("PEERS_DATA", raising=False)


# the command


def test_the_defaults_are_well_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a configuration the defaults are examined: a line a finding, the fingerprint, a sum, exit code 0."""
    assert doctor(None, (), None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(text.startswith(("ok  ", "warning ")) or text[0] == " " for text in lines[:-1])
    names = {text[8:24].strip() for text in lines[:-1] if text[0] != " "}
    assert {"configuration", "python", "packages", "CUDA", "GPU", "data", "fingerprint", "disk", "ports"} <= names
    assert lines[-1].startswith("0 errors, ")
    assert not Path("runs").exists()  # a look leaves nothing behind


def test_a_check_that_fails_is_a_finding_and_the_others_still_run() -> None:
    """Whatever a check raises becomes an error with its text; what it had found before stands."""

    def broken(_subject: Subject) -> Iterator[Finding]:
        yield ok("first", "well")
        raise RuntimeError("the disk is on fire")

    def refused(_subject: Subject) -> Iterator[Finding]:
        yield from ()
        raise DataError("no images")

    def well(_subject: Subject) -> Iterator[Finding]:
        yield ok("last", "well")

    found = list(examine(subject(), (("broken", broken), ("refused", refused), ("last", well))))
    assert [(one.name, one.level) for one in found] == [
        ("first", "ok"),
        ("broken", "error"),
        ("refused", "error"),
        ("last", "ok"),
    ]
    assert "RuntimeError: the disk is on fire" in found[1].text
    assert found[2].text == "no images"
    assert found[1].remedy
    assert found[2].remedy


def test_a_finding_is_readable_and_coloured() -> None:
    """Further lines and the remedy stand below the text; the level alone has its colour."""
    text = line(findings.error("disk", "full\nreally", "free [some]"))
    assert text.plain.splitlines() == [
        "error   disk            full",
        f"{'':24}really",
        f"{'':24}-> free [some]",
    ]
    assert [str(span.style) for span in text.spans if span.start == 0] == ["bold red"]


def test_the_doctor_starts_without_what_it_looks_for() -> None:
    """Its modules import neither torch nor gRPC nor the other packages whose absence it has to tell."""
    slow = {"torch", "grpc", "cryptography", "psutil", "packaging", "numpy"}
    code = f"import sys, coordinator.doctor.examine; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# configuration, packages, launcher


def test_a_configuration_that_cannot_be_loaded() -> None:
    """Each problem is an error of its own, and the other checks go on with the defaults."""
    Path("config.yaml").write_text("network: {width: -1}\nlauncher: {max_restart: 3}\n")
    found = Subject.of("config.yaml")
    errors = list(group.configuration(found))
    assert [(one.level, one.text.split(":")[0]) for one in errors] == [("error", "config.yaml")] * 2
    assert "network.width = -1" in errors[0].text
    assert "max_restarts" in errors[1].text
    assert found.peers == 4
    assert "missing.yaml" in fault(group.configuration(Subject.of("missing.yaml")), "error").text
    Path("config.yaml").write_text("network: {width: 32}\n")
    assert [one.level for one in group.configuration(Subject.of("config.yaml"))] == ["ok"]


def test_a_coordinator_that_would_not_start() -> None:
    """Beyond loopback without TLS and a token: an error in the service's own words, unless the network is trusted."""
    sets = ("exchange.kind=coordinator", "coordinator.bind=0.0.0.0:0")
    text = fault(group.configuration(subject(*sets)), "error", "bind is 0.0.0.0:0, which others can reach").text
    assert "tls (security.certs) and token (security.token_file, or PEERS_TOKEN)" in text
    assert levels(group.configuration, *sets, "security.insecure=true") == ["ok"]
    elsewhere = subject("coordinator.bind=0.0.0.0:0", address="node1:7070")
    assert [one.level for one in group.configuration(elsewhere)] == ["ok"]


def test_launchers_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray that cannot be imported and Slurm without its programs are errors where they are to launch, only there."""
    assert levels(software.launcher, "launcher=ray") == ["ok"]
    monkeypatch.setitem(sys.modules, "ray", None)
    fault(software.launcher(subject("launcher=ray")), "error", "ray cannot be imported")
    monkeypatch.setenv("PATH", str(tmp_path))
    fault(software.launcher(subject("launcher=slurm")), "error", "no sbatch, scontrol, scancel on PATH")
    assert levels(software.launcher) == ["ok"]
    for program in software.SLURM:
        (tmp_path / program).touch(0o755)
    assert levels(software.launcher, "launcher=slurm") == ["ok"]


def test_packages_of_the_wrong_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A requirement that is too old, or built for another torch, is an error with both versions."""
    assert set(levels(software.packages)) == {"ok"}
    monkeypatch.syspath_prepend(tmp_path)
    plant(tmp_path, "safetensors", "0.1")
    bad = fault(software.packages(subject()), "error", "safetensors is 0.1, expected >=0.5")
    assert "pip install 'safetensors>=0.5'" in bad.remedy
    (tmp_path / "safetensors-0.1.dist-info" / "METADATA").unlink()
    (tmp_path / "safetensors-0.1.dist-info").rmdir()
    plant(tmp_path, "torchvision", "0.99", "torch==9.9")
    fault(software.packages(subject()), "error", "torchvision 0.99 was built for torch==9.9, and torch is")


def plant(folder: Path, name: str, version: str, *requires: str) -> None:
    """An installed package, as far as its metadata goes."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")


# the machine


def test_cores_are_not_crowded() -> None:
    """More than four compute threads a core are a warning, on a CPU."""
    assert levels(processors.processor, "group.threads=1", "group.peers=2") == ["ok"]
    sets = ("group.threads=1000", "group.peers=8")
    fault(processors.processor(subject(*sets)), "warning", "8 workers of 1000 compute threads")
    assert levels(processors.processor, *sets, "launcher=slurm") == ["ok"]


def gpu_faults(gpus: Gpus, *sets: str, address: str | None = None) -> list[tuple[str, str]]:
    """What is wrong with GPUs for a configuration."""
    found = processors.judge(gpus, subject(*TINY, *sets, address=address))
    return [(one.level, one.text) for one in faults(found)]


def test_gpus_fit_the_group() -> None:
    """No GPU where one is asked for, two ranks on one, no NCCL, too little memory: each by name; otherwise nothing."""
    none = Gpus(torch="2.12")
    assert gpu_faults(none) == gpu_faults(none, "device=cuda", "launcher=slurm") == []
    assert gpu_faults(none, "device=cuda") == [("error", "device = 'cuda', and there is no GPU on this machine")]
    hidden = replace(none, present=2, complaint="the driver is too old")
    assert gpu_faults(hidden) == [("warning", "the driver has 2 GPUs, torch can use 0: the driver is too old")]
    assert gpu_faults(hidden, "device=cuda")[0][0] == "error"
    assert gpu_faults(H100, "group.peers_per_worker=4") == gpu_faults(H100, "device=cpu") == []
    assert gpu_faults(H100) == [("error", "4 workers and 1 GPUs: NCCL refuses two ranks on one GPU")]
    assert gpu_faults(H100, address="node1:7070") == gpu_faults(H100, "exchange.kind=coordinator") == []
    four = replace(H100, free=H100.free * 4, total=H100.total * 4, names=H100.names * 4, present=4)
    assert gpu_faults(four) == []
    assert "exchange over NCCL, and this torch has none" in gpu_faults(replace(four, nccl=None))[0][1]
    large = gpu_faults(H100, "group.peers_per_worker=4", "network.width=40000")
    assert [level for level, _ in large] == ["warning"]
    assert "70.0 GiB are free" in large[0][1]


def test_images_that_are_not_there() -> None:
    """Missing images, and a batch larger than all of them, are errors; images to be fetched a warning, not fetched."""
    assert levels(images.data, *TINY) == ["ok", "ok"]
    sets = ("data.name=cifar10", "data.root=nowhere")
    fault(images.data(subject(*sets)), "error", "nowhere")
    fault(images.data(subject(*sets, "data.download=true")), "warning", "not there yet")
    assert not Path("nowhere").exists()
    fault(images.data(subject(*TINY, "data.batch=1000")), "error", "data.batch is 1000")


def test_folders_that_cannot_be_written() -> None:
    """A file where a folder should be: an error that names the field; the rest of the disk is judged all the same."""
    Path("file").touch()
    fault(storage.disk(subject(*TINY, "run.out=file/runs")), "error", "run.out = 'file/runs' cannot be written")
    fault(
        storage.disk(subject(*TINY, "coordinator.state=file")), "error", "coordinator.state = 'file' cannot be written"
    )
    assert levels(storage.disk, *TINY, "coordinator.state=state") == ["ok", "ok"]
    assert sorted(path.name for path in Path().iterdir()) == ["file"]


def test_a_run_that_is_larger_than_any_disk() -> None:
    """Checkpoints are estimated without being built, from the network and its optimizer's state."""
    sets = (*TINY, "network.width=65536", "network.depth=100", "group.peers=4096")
    text = fault(storage.disk(subject(*sets)), "error", "run.out = 'runs'", "for each of 4096 peers need").text
    assert "2 checkpoints of 4.6 TiB" in text
