"""Are there the cores and the GPUs that the peers of this machine compute on?"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from coordinator.doctor.sizes import shown, training_bytes
from peers.worker.placement import compute_threads

DRIVER = Path("/proc/driver/nvidia")
CROWDED = 4
"""Compute threads on a core from which on peers mostly wait for one another."""


@dataclass(frozen=True)
class Gpus:
    """What torch and the driver say of this machine's GPUs.

    Attributes:
        free: bytes of memory that are free, of each GPU that torch can use.
        total: bytes of memory of each.
        names: of each.
        present: how many the driver has, whether torch can use them or not.
        driver: its version; None without one.
        torch: version of torch.
        cuda: version that torch was built for; None for a build without CUDA.
        nccl: version that torch was built with; None without it.
        complaint: what torch said when it was asked for GPUs.
    """

    free: tuple[int, ...] = ()
    total: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    present: int = 0
    driver: str | None = None
    torch: str = ""
    cuda: str | None = None
    nccl: str | None = None
    complaint: str = ""


def processor(subject: Subject) -> Iterator[Finding]:
    """Cores against compute threads."""
    cores, workers = len(os.sched_getaffinity(0)), subject.workers_here
    if workers is None:
        yield ok("processor", f"{cores} cores; how many workers they get is decided elsewhere")
        return
    threads = compute_threads(subject.config.group.threads, subject.peers)
    text = f"{cores} cores for {workers} workers of {threads} compute threads"
    if workers * threads > CROWDED * cores and subject.config.device != "cuda":
        remedy = "lower group.threads, host several peers in a worker with group.peers_per_worker, or use more machines"
        yield warning("processor", f"{text}: more than {CROWDED} threads a core", remedy)
    else:
        yield ok("processor", text)


def gpu(subject: Subject) -> Iterator[Finding]:
    """GPUs, their driver, CUDA and NCCL, against the peers of this machine."""
    yield from judge(look(), subject)


def judge(gpus: Gpus, subject: Subject) -> Iterator[Finding]:
    """What GPUs mean for a configuration."""
    yield _versions(gpus)
    config, count = subject.config, len(gpus.free)
    wanted = config.device == "cuda" and config.launcher.kind == "local"
    if gpus.present > count:
        text = f"the driver has {gpus.present} GPUs, torch can use {count}{gpus.complaint and f': {gpus.complaint}'}"
        remedy = "look at CUDA_VISIBLE_DEVICES, and install a torch that was built for this driver's CUDA"
        yield error("GPU", text, remedy) if wanted and not count else warning("GPU", text, remedy)
    elif wanted and not count:
        remedy = "use device = 'auto' or 'cpu', or run on a machine with a GPU"
        yield error("GPU", "device = 'cuda', and there is no GPU on this machine", remedy)
    elif not count:
        yield ok("GPU", "none: peers of this machine compute on the CPU")
    if count:
        listed = "; ".join(
            f"{name}, {shown(free)} of {shown(total)} free"
            for name, free, total in zip(gpus.names, gpus.free, gpus.total, strict=True)
        )
        yield ok("GPU", f"{count}: {listed}")
        if config.device != "cpu" and subject.workers_here is not None:
            yield from _shared_out(gpus, subject, subject.workers_here)


def look() -> Gpus:
    """The GPUs of this machine; asks torch, which takes some memory on each."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = [torch.cuda.mem_get_info(place) for place in range(count)]
    version: Any = torch.cuda.nccl.version  # untyped
    nccl = version() if torch.distributed.is_nccl_available() else None
    return Gpus(
        tuple(free for free, _ in memory),
        tuple(total for _, total in memory),
        tuple(torch.cuda.get_device_name(place) for place in range(count)),
        len(list((DRIVER / "gpus").iterdir())) if (DRIVER / "gpus").is_dir() else count,
        _driver(),
        torch.__version__,
        torch.version.cuda,
        None if nccl is None else ".".join(map(str, nccl)),
        " ".join(str(warning_.message).splitlines()[0] for warning_ in said),
    )


def _versions(gpus: Gpus) -> Finding:
    cuda = "a build without CUDA" if gpus.cuda is None else f"built for CUDA {gpus.cuda}"
    nccl = "no NCCL" if gpus.nccl is None else f"NCCL {gpus.nccl}"
    driver = "no NVIDIA driver" if gpus.driver is None else f"NVIDIA driver {gpus.driver}"
    return ok("CUDA", f"torch {gpus.torch}, {cuda}, {nccl}; {driver}")


def _driver() -> str | None:
    """The kernel module's version, as it says itself."""
    try:
        text = (DRIVER / "version").read_text()
    except OSError:
        return None
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else "of unknown version"


def _shared_out(gpus: Gpus, subject: Subject, workers: int) -> Iterator[Finding]:
    """Whether workers and peers fit the GPUs; with a coordinator all workers of a machine use the first one."""
    count, collective = len(gpus.free), not subject.elastic
    each = -(-subject.peers // workers)
    if collective and workers > 1 and gpus.nccl is None:
        text = f"{workers} workers on GPUs exchange over NCCL, and this torch has none"
        yield error("GPU", text, "install a torch with NCCL, or use exchange.kind = 'coordinator'")
    if collective and workers > count:
        text = f"{workers} workers and {count} GPUs: NCCL refuses two ranks on one GPU"
        yield error(
            "GPU", text, f"host several peers in a worker: group.peers_per_worker = {-(-subject.peers // count)}"
        )
        return
    at_once = each if collective else subject.peers
    need, free = at_once * training_bytes(subject), min(gpus.free[: workers if collective else 1])
    text = f"{at_once} peers on a GPU take at least {shown(need)}, without what the forward pass keeps"
    if need > free:
        remedy = "fewer peers on each GPU (group.peers_per_worker), or a smaller network.width"
        yield warning("GPU", f"{text}; {shown(free)} are free", remedy)
    else:
        yield ok("GPU", text)
