"""The upper bound: the same networks on the same batches with the same optimizer, but with labels and a linear head.

It is no arm of the method and in no test of the claim; it says what the networks could have learned in so many rounds.
The head is thrown away, and the features are judged as everybody else's.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from peers.common.errors import DivergedError, PeersError
from peers.common.seeds import torch_generator
from peers.config.schema import Config
from peers.data.batches import Schedule
from peers.method.peer import Peer, learning_rate, make_optimizer
from peers.runs import summary
from peers.runs.run_folder import Existing
from peers.worker.placement import Placement, compute_threads, device_of, with_group
from peers.worker.pool import PeerPool
from peers.worker.preflight import RunContext, check
from peers.worker.process import StopSignal

logger = logging.getLogger(__name__)


def work(config: Config, placement: Placement, existing: Existing, stop: StopSignal) -> int:
    """Train and judge a group with labels in this process; returns its exit code.

    It keeps no checkpoints: stopped, it ends without a result and begins again.

    Args:
        config: of the run that it is the upper bound of.
        placement: of the only worker.
        existing: what to do with a run that is already there.
        stop: asks it to end.
    """
    try:
        config = with_group(config, placement)
        device = device_of(config, placement)
        grounds = check(config, device)
        grounds.folder.prepare(config, existing)
        peers = range(config.group.peers or 0)
        pool = PeerPool(len(peers), device, compute_threads(config.group.threads, len(peers)))
        try:
            reports = pool.map(lambda peer: _report(config, grounds, peer, device, stop), peers)
        finally:
            pool.close()
        if not stop.requested():
            result = summary.summarize(
                config, "none", grounds.rounds, grounds.evaluator.pixels(), dict(zip(peers, reports, strict=True))
            )
            summary.write(grounds.folder, result)
    except PeersError as exc:
        logger.error("%s", exc)
        return exc.exit_code
    return 0


def _report(config: Config, grounds: RunContext, number: int, device: torch.device, stop: StopSignal) -> dict[str, Any]:
    began = time.perf_counter()
    peer = Peer(config, number, grounds.data.shape, grounds.rounds, device)
    baseline = grounds.evaluator.network(peer.network)
    if not _fit(peer, grounds, stop):
        return {}
    final = grounds.evaluator.network(peer.network)
    logger.info("peer %d: at initialization %s; with labels %s", number, baseline, final)
    return {
        "network": config.network_of(number).name,
        "incarnation": 0,
        "pid": os.getpid(),
        "baseline": baseline,
        "final": final,
        "stepped": grounds.rounds,
        "skips": {},
        "selected": None,
        "seconds": time.perf_counter() - began,
    }


def _fit(peer: Peer, grounds: RunContext, stop: StopSignal) -> bool:
    """All rounds with labels; False where it was asked to end before."""
    config, data = peer.config, grounds.data
    schedule = Schedule(len(data.train), config.data.batch, config.run.seed)
    head = nn.Linear(grounds.width, data.classes)
    bound = grounds.width**-0.5
    generator = torch_generator(config.run.seed, "supervised_head", peer.id)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    model = nn.Sequential(peer.network, head.to(peer.device)).train()
    optimizer = make_optimizer(config.optimizer, model)
    for round_ in range(grounds.rounds):
        if stop.requested():
            return False
        indices = schedule.indices(round_)
        images = data.train.batch(indices).contiguous(memory_format=torch.channels_last)
        labels = data.train.labels[torch.from_numpy(indices)].to(peer.device)
        with torch.autocast(peer.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(images).float()
        loss = functional.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise DivergedError(f"peer {peer.id}: the supervised loss is not finite in round {round_}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates it only in part
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, round_, grounds.rounds)
        optimizer.step()
    return True
