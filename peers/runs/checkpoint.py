"""Checkpoints of one peer: tensors as safetensors, all else as JSON; no pickle.

    FOLDER/round-00000050.safetensors    weights, buffers, optimizer state
    FOLDER/round-00000050.json           round, counts, configuration, digest of the tensors
    FOLDER/latest                        link to the newest .json

A checkpoint exists once its JSON does: that is written last, aside and with os.replace, and names the digest of the
tensors. Generators need no state of their own: each is derived from the seed and the round (peers.common.seeds), so the
round restores them all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from peers.common.errors import CheckpointError
from peers.common.files import write_atomically
from peers.config.loading import identity_digest
from peers.method.peer import Peer
from peers.runs.checkpoint_checks import check_record, check_state

SCHEMA = 2
_FIELDS = ("round", "peer", "incarnation", "stepped", "bad_in_a_row", "skips", "optimizer", "tensors_digest", "extra")
_NAME = re.compile(r"round-(\d+)\.json")


class Checkpoints:
    """The checkpoints of one peer in one folder.

    Args:
        folder: made when the first checkpoint is saved.
        facts: identity of the configuration (peers.config.loading.identity).
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], keep: int = 2) -> None:
        self.folder = folder
        self.facts = json.loads(json.dumps(dict(facts)))
        self.keep = keep

    def path(self, round_: int) -> Path:
        """The JSON file of the checkpoint after `round_` rounds; the tensors lie beside it, as .safetensors."""
        return self.folder / f"round-{round_:08d}.json"

    def rounds(self) -> list[int]:
        """Rounds of the checkpoints at hand, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for path in self.folder.iterdir() if (m := _NAME.fullmatch(path.name)))

    def save(self, peer: Peer, round_: int, extra: Mapping[str, Any]) -> Path:
        """Save a peer that has done `round_` rounds.

        Args:
            peer: whose state.
            round_: rounds done; the next one to run.
            extra: JSON values to keep beside it.

        Returns:
            path of the JSON file.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        tensors, counts = state_of(peer)
        data = safetensors.torch.save(tensors)
        record = {
            "schema": SCHEMA,
            "round": round_,
            "peer": peer.id,
            **counts,
            "generators": "derived from configuration.run.seed, peer, incarnation and round",
            "configuration": self.facts,
            "configuration_digest": identity_digest(self.facts),
            "tensors_digest": tensors_digest(data),
            "extra": dict(extra),
        }
        path = self.path(round_)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_tensors(round_, data, str(record["tensors_digest"]))
            write_atomically(path, json.dumps(record, indent=1).encode())
            self._point_to(path)
            self._prune()
        except OSError as exc:
            raise CheckpointError(f"peer {peer.id}: cannot save a checkpoint in {self.folder}: {exc}") from exc
        return path

    def load(self, peer: Peer, round_: int) -> dict[str, Any]:
        """Bring a peer to the state it was saved in after `round_` rounds; returns what `extra` was.

        Raises:
            CheckpointError: it is damaged, or was made with another configuration; names the differing fields.
        """
        record = self.record(round_)
        path = self.path(round_).with_suffix(".safetensors")
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise CheckpointError(f"cannot read the checkpoint {path}: {exc}") from exc
        if tensors_digest(data) != record["tensors_digest"]:
            raise _damaged(path, "its digest is not the one that its .json names")
        if record["peer"] != peer.id:
            raise CheckpointError(f"{path} belongs to peer {record['peer']}, not to peer {peer.id}")
        try:
            tensors = safetensors.torch.load(data)
            check_state(peer, tensors, record)
        except (safetensors.SafetensorError, CheckpointError) as exc:
            raise _damaged(path, str(exc)) from exc
        restore(peer, tensors, record)
        return dict(record["extra"])

    def record(self, round_: int) -> dict[str, Any]:
        """The JSON of one checkpoint, checked against this configuration.

        Raises:
            CheckpointError: as `load`.
        """
        path = self.path(round_)
        try:
            record = json.loads(path.read_bytes())
            schema, saved = record["schema"], record["configuration"]
            missing = [name for name in _FIELDS if name not in record]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            raise _damaged(path, f"{type(exc).__name__}: {exc}") from exc
        if schema != SCHEMA:
            raise CheckpointError(f"{path} has schema {schema}, this version reads schema {SCHEMA}")
        if missing:
            raise _damaged(path, f"it has no {', '.join(missing)}")
        try:
            check_record(record)
        except CheckpointError as exc:
            raise _damaged(path, str(exc)) from exc
        differing = [
            f"  {key}: {saved.get(key)!r} in the checkpoint, {self.facts.get(key)!r} now"
            for key in sorted({*saved, *self.facts})
            if saved.get(key) != self.facts.get(key)
        ]
        if differing:
            raise CheckpointError(
                "\n".join(
                    [
                        f"{path} was made with another configuration:",
                        *differing,
                        "restore these values, give the run another name (--set run.name=…), or start it anew with "
                        "--overwrite",
                    ]
                )
            )
        return dict(record)

    def _write_tensors(self, round_: int, data: bytes, digest: str) -> None:
        """Write the tensors of a round, unless they are there: a JSON never stands beside tensors of another one."""
        path = self.path(round_)
        if path.is_file():
            if self._holds(path, digest):
                return
            self.discard_after(round_ - 1)
        write_atomically(path.with_suffix(".safetensors"), data)

    @staticmethod
    def _holds(path: Path, digest: str) -> bool:
        """Whether a checkpoint is whole and has these tensors."""
        try:
            named = str(json.loads(path.read_bytes())["tensors_digest"])
            return digest == named == tensors_digest(path.with_suffix(".safetensors").read_bytes())
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False  # damaged: it is about to be replaced by a whole one

    def discard_after(self, round_: int) -> None:
        """Drop checkpoints newer than the round the group resumes from: they belong to a past that others lack."""
        kept = [r for r in self.rounds() if r <= round_]
        if kept:
            self._point_to(self.path(kept[-1]))
        else:
            (self.folder / "latest").unlink(missing_ok=True)
        for newer in self.rounds()[len(kept) :]:
            self._remove(newer)
        for aside in self.folder.glob(".*.new"):
            aside.unlink(missing_ok=True)  # of a process that was killed while it wrote: this one holds the peer's lock

    def _point_to(self, path: Path) -> None:
        """Move `latest`; it is replaced in one step, so that it always leads to a checkpoint."""
        aside = self.folder / "latest.new"
        aside.unlink(missing_ok=True)
        aside.symlink_to(path.name)
        os.replace(aside, self.folder / "latest")

    def _prune(self) -> None:
        for round_ in self.rounds()[: -self.keep]:
            self._remove(round_)

    def _remove(self, round_: int) -> None:
        path = self.path(round_)
        path.unlink()  # first, so that no JSON is left without its tensors
        path.with_suffix(".safetensors").unlink(missing_ok=True)


def state_of(peer: Peer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a peer is: copies of its tensors on the CPU by name, and its counts and settings as JSON values."""
    tensors = {f"network.{name}": tensor for name, tensor in peer.network.state_dict().items()}
    optimizer = peer.optimizer.state_dict()
    for place, state in optimizer["state"].items():
        for key, value in state.items():
            if value is not None:
                tensors[f"optimizer.{place}.{key}"] = torch.as_tensor(value)
    if peer.selection.best is not None:
        tensors |= {f"selected.{name}": tensor for name, tensor in peer.selection.best.state.items()}
    # The settings without the parameters that they are for.
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer["param_groups"]]
    counts = {
        "incarnation": peer.incarnation,
        "stepped": peer.stepped,
        "bad_in_a_row": peer.bad_in_a_row,
        "skips": dict(peer.skips),
        "optimizer": groups,
        "selection": peer.selection.record(),
    }
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, counts


def restore(peer: Peer, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Bring a peer of the same configuration to the state that `state_of` gave."""
    network = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    peer.network.load_state_dict(network)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            state.setdefault(int(place), {})[key] = tensor.clone()  # the optimizer changes it in place
    groups = peer.optimizer.state_dict()["param_groups"]
    settings = [{**mine, **saved} for mine, saved in zip(groups, record["optimizer"], strict=True)]
    peer.optimizer.load_state_dict({"state": state, "param_groups": settings})
    selected = {n.removeprefix("selected."): t.to(peer.device) for n, t in tensors.items() if n.startswith("selected.")}
    peer.selection.restore(record.get("selection"), selected)
    peer.stepped = record["stepped"]
    peer.bad_in_a_row = record["bad_in_a_row"]
    peer.skips.clear()
    peer.skips.update(record["skips"])


def tensors_digest(data: bytes) -> str:
    """Hex BLAKE2b-128 of the bytes of a .safetensors file, as its .json names it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged ({why}); delete it, and the run resumes from an older one"
    )
