"""Run folder: what lies where in it, and who may write there.

OUT/NAME/config.yaml          the resolved configuration
         metrics.jsonl        a record a line
         tensorboard/         the same for TensorBoard
         logs/                worker-N.log
         checkpoints/         peer-000/ ...
         journal/             peer-000.jsonl ..., when each peer began and which rounds it missed
         snapshots/           peer-000/ ..., where checkpoint.snapshots asks for them
         summary.json         once the run has ended
         analysis.json        what its features hold, where an experiment asked for that
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peers.common.errors import RunFolderError
from peers.common.files import write_atomically
from peers.config.loading import dump
from peers.config.schema import Config

Existing = Literal["refuse", "resume", "overwrite"]
LOOK = 0.1
"""Seconds between two tries for a lock."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder that a resolved configuration names."""
        return cls(Path(config.run.out) / run_name(config))

    @property
    def config(self) -> Path:
        """The resolved configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Records of all peers, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events, one below it for each peer."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """Folder of the workers' logs."""
        return self.path / "logs"

    def journal(self, peer: int) -> Path:
        """What one peer's weights depend on, beside its configuration; see `peers.runs.journal`."""
        return self.path / "journal" / f"peer-{peer:03d}.jsonl"

    @property
    def summary(self) -> Path:
        """The result, JSON; there once the run has ended."""
        return self.path / "summary.json"

    @property
    def analysis(self) -> Path:
        """What its features hold, JSON."""
        return self.path / "analysis.json"

    @property
    def coordinator_address(self) -> Path:
        """Where a launched coordinator says where it listens."""
        return self.path / "coordinator.address"

    @property
    def job_script(self) -> Path:
        """What was given to Slurm."""
        return self.path / "job.sbatch"

    @property
    def job(self) -> Path:
        """Number of the Slurm job that was submitted last."""
        return self.path / "job.id"

    def coordinator_state(self, config: Config) -> Path:
        """Folder of the coordinator's store: as configured, or in the run's folder."""
        return Path(config.coordinator.state or self.path / "coordinator")

    def checkpoints(self, peer: int) -> Path:
        """Folder of one peer's checkpoints."""
        return self.path / "checkpoints" / f"peer-{peer:03d}"

    def snapshots(self, peer: int) -> Path:
        """Folder of one peer's weights at chosen rounds."""
        return self.path / "snapshots" / f"peer-{peer:03d}"

    def prepare(self, config: Config, existing: Existing) -> None:
        """Make the folder and save the configuration in it.

        Args:
            config: resolved.
            existing: what to do with a run that is already there.

        Raises:
            RunFolderError: it cannot be written, or holds a run and `existing` is "refuse".
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            self._take_over(existing)
        self._make(config)

    def enter(self, config: Config) -> None:
        """Make the folder if it is not there: a worker of an elastic group may be the first, or come to others.

        Raises:
            RunFolderError: it cannot be written.
        """
        if not self.config.is_file():
            self._make(config)

    def _make(self, config: Config) -> None:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, dump(config).encode())
        except OSError as exc:
            raise RunFolderError(
                f"run.out = {config.run.out!r}: cannot write the folder of the run {self.path}: {exc.strerror or exc}; "
                f"choose another with --set run.out=DIR"
            ) from exc

    def _take_over(self, existing: Existing) -> None:
        if not self.config.is_file():
            raise RunFolderError(f"{self.path} exists and is not a run (no config.yaml); choose another run.name")
        if existing == "refuse":
            state = "a finished run" if self.summary.is_file() else "an unfinished run"
            raise RunFolderError(
                f"{self.path} holds {state}: continue it with --resume auto, replace it with --overwrite, or give this "
                f"one another name with --set run.name=NAME"
            )
        for place in sorted(self.path.glob("checkpoints/peer-*")):
            PeerLock(self, int(place.name.removeprefix("peer-"))).release()
        if existing == "overwrite":
            try:
                shutil.rmtree(self.path)
            except OSError as exc:
                raise RunFolderError(f"cannot remove {self.path}: {exc}") from exc


class PeerLock:
    """Holds a peer of a run for this process, so that no second one writes its checkpoints; ends with the process.

    Args:
        folder: of the run.
        peer: its id.
        patience: seconds that another process has to let go of it, such as one that was just killed.

    Raises:
        RunFolderError: another process hosts the peer.
    """

    def __init__(self, folder: RunFolder, peer: int, patience: float = 0.0) -> None:
        place = folder.checkpoints(peer)
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._file = (place / ".lock").open("a")
        except OSError as exc:
            raise RunFolderError(f"cannot write {place}: {exc}") from exc
        deadline = time.monotonic() + patience
        while not self._taken():
            if time.monotonic() >= deadline:
                self._file.close()
                raise RunFolderError(
                    f"peer {peer} of {folder.path} is hosted by another process right now; wait for it or stop it"
                )
            time.sleep(LOOK)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._file.close()
            raise RunFolderError(f"{self._file.name} cannot be locked: {exc.strerror or exc}") from exc
        return True

    def release(self) -> None:
        """Let another process host the peer."""
        self._file.close()


def run_name(config: Config) -> str:
    """Name of the run: as configured, or made of what sets it apart."""
    if config.run.name is not None:
        return config.run.name
    control = "" if config.consensus.control == "none" else f"-{config.consensus.control}"
    return (
        f"{config.data.name}-{config.network[0].name}-{config.consensus.target}{control}"
        f"-{config.group.peers}peers-seed{config.run.seed}"
    )


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON record in a single write, so that lines of several processes never mix on a local disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
    finally:
        os.close(descriptor)
