"""Checks of the machine: cores, GPUs, disk, shared memory, open files."""

from __future__ import annotations

import os
import re
import resource
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from coordinator.doctor.findings import Finding, Subject, grade
from peers.common.errors import ConfigError, PeersError
from peers.method.target_selection import TargetSelection
from peers.worker.placement import compute_threads

DRIVER = Path("/proc/driver/nvidia")
SHARED = Path("/dev/shm")  # noqa: S108  # shared memory itself
THREADS_PER_CORE = 4
"""More compute threads on a core than this mostly wait for one another."""
LOGS = 64 * 2**20
"""Bytes for what is not checkpoints: logs, metrics, TensorBoard."""
BASE_FILES, FILES_EACH = 48, 2
"""Open files and sockets of a process by itself, and for each peer: a connection, and shared memory or one more."""


@dataclass(frozen=True)
class Gpus:
    """What torch and the driver say of this machine's GPUs.

    Attributes:
        free: bytes of memory that are free, of each GPU that torch can use.
        names: of each.
        present: how many the driver has, whether torch can use them or not.
        nccl: whether torch has NCCL.
        versions: of torch, CUDA, NCCL and the driver, for a reader.
        complaint: torch's warnings when it was asked for GPUs.
    """

    free: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    present: int = 0
    nccl: bool = False
    versions: str = ""
    complaint: str = ""


def processor(subject: Subject) -> Iterator[Finding]:
    """There are cores enough for the compute threads."""
    cores, workers = len(os.sched_getaffinity(0)), subject.workers_here or 0
    threads = workers * compute_threads(subject.config.group.threads, subject.peers)
    remedy = "lower group.threads, host several peers in a worker with group.peers_per_worker, or use more machines"
    crowded = threads > THREADS_PER_CORE * cores and subject.config.device != "cuda"
    text = f"{cores} cores for {threads} compute threads of {workers} workers here"
    yield grade("processor", text, remedy, warning=crowded)


def gpu(subject: Subject) -> Iterator[Finding]:
    """The GPUs, their driver, CUDA and NCCL fit the peers of this machine."""
    yield from judge(read_gpus(), subject)


def read_gpus() -> Gpus:
    """The GPUs of this machine; asks torch, which takes some memory on each."""
    import torch

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nccl_version: Any = torch.cuda.nccl.version  # untyped
    nccl = nccl_version() if torch.distributed.is_nccl_available() else ()
    file = DRIVER / "version"
    driver = re.search(r"\s(\d+(?:\.\d+)+)\s", file.read_text()) if file.exists() else None
    return Gpus(
        tuple(torch.cuda.mem_get_info(index)[0] for index in range(count)),
        tuple(torch.cuda.get_device_name(index) for index in range(count)),
        len(list((DRIVER / "gpus").iterdir())) if (DRIVER / "gpus").is_dir() else count,
        bool(nccl),
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, nccl)) or None}; "
        f"NVIDIA driver {driver and driver[1]}",
        " ".join(str(complaint.message).splitlines()[0] for complaint in complaints),
    )


def judge(gpus: Gpus, subject: Subject) -> Iterator[Finding]:
    """What these GPUs mean for a configuration."""
    yield grade("CUDA", gpus.versions)
    config, count = subject.config, len(gpus.free)
    lacking = not count and config.device == "cuda" and config.launcher.kind == "local"
    listed = "".join(f"; {name}, {decimal(free)} free" for name, free in zip(gpus.names, gpus.free, strict=True))
    text = (
        f"the driver has {gpus.present} GPUs, torch can use {count}{listed}{gpus.complaint and f': {gpus.complaint}'}"
    )
    remedy = "look at CUDA_VISIBLE_DEVICES and at the CUDA that torch was built for; or use device = 'cpu'"
    yield grade("GPU", text, remedy, error=lacking, warning=gpus.present > count)
    workers, collective = subject.workers_here, not subject.elastic
    if not count or config.device == "cpu" or workers is None:
        return
    if collective and workers > 1 and not gpus.nccl:
        text = f"{workers} workers on GPUs exchange over NCCL, and this torch has none"
        yield grade("GPU", text, "install a torch with NCCL, or use exchange.kind = 'coordinator'", error=True)
    if collective and workers > count:
        remedy = f"host several peers in a worker: group.peers_per_worker = {-(-subject.peers // count)}"
        yield grade("GPU", f"{workers} workers, {count} GPUs: NCCL needs a GPU for each", remedy, error=True)
        return
    # With a coordinator all workers of a machine use its first GPU.
    peers, used = (-(-subject.peers // workers), workers) if collective else (subject.peers, 1)
    need, free = peers * peer_bytes(subject, training=True), min(gpus.free[:used])
    text = f"{peers} peers on a GPU take {decimal(need)} and their activations; {decimal(free)} are free"
    remedy = "fewer peers on each GPU (group.peers_per_worker), or a smaller network.width"
    yield grade("GPU", text, remedy, warning=need > free)


def peer_bytes(subject: Subject, *, training: bool) -> int:
    """Bytes of the group's largest peer: weights, optimizer, in training gradients; 0 where the images are unknown."""
    from peers.networks.registry import weight_bytes

    grounds, optimizer = subject.grounds, subject.config.optimizer
    if isinstance(grounds, PeersError):
        return 0
    moments = int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2
    largest = max(weight_bytes(network, grounds.data.shape) for network in subject.config.network)
    return largest * (1 + moments + training)


def disk(subject: Subject) -> Iterator[Finding]:
    """The folders can be written, and the disk has room for the checkpoints of all peers."""
    folders = {"run.out": subject.config.run.out}
    if subject.config.coordinator.state is not None and subject.address is None:
        folders["coordinator.state"] = subject.config.coordinator.state
    keep = subject.config.checkpoint.keep
    for field, folder in folders.items():
        # The newest checkpoint is complete before the oldest is deleted.
        need = (keep + 1) * subject.peers * peer_bytes(subject, training=False) if field == "run.out" else 0
        remedy = f"free some, choose another folder with --set {field}=DIR, or lower checkpoint.keep"
        try:
            free = _free_bytes(Path(folder).absolute())
        except OSError as exc:
            text = f"{field} = {folder!r} cannot be written: {exc.strerror or exc}"
            yield grade("disk", text, remedy, error=True)
            continue
        text = f"{field} = {folder!r}: {decimal(free)} free, checkpoints need {decimal(need)}"
        yield grade("disk", text, remedy, error=free < need, warning=need > 0 and free < 2 * need + LOGS)


def _free_bytes(path: Path) -> int:
    """Bytes that are free in a folder, or in the nearest one above that exists; OSError if it cannot be written."""
    while not path.exists() and path != path.parent:
        path = path.parent
    with tempfile.TemporaryFile(dir=path):
        pass
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """Shared memory has room for the outputs of all workers, where the exchange uses it."""
    remedy = "enlarge it (in a container, --shm-size or --ipc=host), or set exchange.shared_memory = false"
    try:
        free = _free_bytes(SHARED)
        need = _segment_bytes(subject) if subject.elastic and subject.config.exchange.shared_memory else 0
    except OSError as exc:
        yield grade("shared memory", f"{SHARED} cannot be written: {exc.strerror or exc}", remedy, warning=True)
    except ConfigError:
        return  # the networks' widths differ: the check of the data reports it
    else:
        text = f"{SHARED}: {decimal(free)} free, {subject.peers} peers on one machine need {decimal(need)}"
        yield grade("shared memory", text, remedy, warning=free < need)


def _segment_bytes(subject: Subject) -> int:
    """Bytes of shared memory if all workers run on this machine: what each publishes, and what each or all get."""
    from peers.networks.widths import common_width  # these bring numpy, whose absence the doctor has to report
    from peers.transport.broadcast import SLOTS
    from peers.transport.shared_memory import ANSWERS, room_for

    one = 4 * subject.config.data.batch * common_width(subject.config)  # outputs [B, D] in float32
    rule = TargetSelection.of(subject.config.consensus, subject.config.run.seed)
    common = SLOTS * one if rule.kind == "sum" or rule.aggregated else 0
    if rule.kind == "sum":
        return subject.workers * (room_for(one) + one) + common
    return room_for(subject.peers * one) + subject.workers * min(ANSWERS, subject.peers) * one + common


def open_files(subject: Subject) -> Iterator[Finding]:
    """A process may open as many files as a coordinator has connections, or a worker to all others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = float("inf") if soft == resource.RLIM_INFINITY else soft
    need = BASE_FILES + FILES_EACH * (subject.peers if subject.elastic else subject.workers)
    most = max(need, BASE_FILES + FILES_EACH * subject.config.coordinator.max_peers if subject.elastic else 0)
    text = f"at most {limit} at a time; {subject.peers} peers need {need}, coordinator.max_peers {most}"
    remedy = f"`ulimit -n {most}` in the shell that starts it, LimitNOFILE={most} in its systemd unit, or fewer peers"
    yield grade("open files", text, remedy, error=limit < need, warning=limit < most)
