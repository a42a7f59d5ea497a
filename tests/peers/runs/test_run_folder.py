"""A run's folder is never taken over by accident, and a peer is hosted once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peers.common.errors import RunFolderError
from peers.common.files import write_atomically
from peers.config.loading import load, parse
from peers.config.schema import Config
from peers.runs.run_folder import PeerLock, RunFolder, run_name

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from peers.common.errors import RunFolderError
from peers.runs.run_folder import PeerLock, RunFolder
try:
    lock = PeerLock(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
except RunFolderError as exc:
    print("refused", exc, flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


def config_in(out: Path, **run: object) -> Config:
    """A resolved configuration whose run goes below a folder."""
    return parse({"run": {"out": str(out), "name": "r", **run}, "group": {"peers": 2}})


def test_layout(tmp_path: Path) -> None:
    """Everything lies where the module says."""
    folder = RunFolder.of(config_in(tmp_path))
    assert folder.path == tmp_path / "r"
    places = (folder.config, folder.metrics, folder.tensorboard, folder.logs, folder.summary, folder.checkpoints(12))
    assert [str(place.relative_to(folder.path)) for place in places] == [
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "logs",
        "summary.json",
        "checkpoints/peer-012",
    ]


def test_name_is_configured_or_made_of_what_sets_a_run_apart() -> None:
    """Data, network, target, control, peers and seed; two runs that differ in one of them have different names."""
    assert run_name(parse({"run": {"name": "mine"}})) == "mine"
    base = {"group": {"peers": 4}, "run": {"seed": 3}}
    assert run_name(parse(base)) == "digits-mlp-mean-4peers-seed3"
    controlled = parse({**base, "consensus": {"target": "roles", "control": "noise"}})
    assert run_name(controlled) == "digits-mlp-roles-noise-4peers-seed3"


@pytest.mark.parametrize("existing", ["refuse", "resume", "overwrite"])
def test_a_new_folder_is_made_whatever_the_wish(existing: str, tmp_path: Path) -> None:
    """Where there is nothing, or an empty folder, all three make the run and save its configuration."""
    config = config_in(tmp_path / "deep" / "er")
    folder = RunFolder.of(config)
    folder.prepare(config, existing)  # type: ignore[arg-type]  # one of the three
    assert load(folder.config) == config
    assert folder.logs.is_dir()
    empty = config_in(tmp_path, name="empty")
    RunFolder.of(empty).path.mkdir()
    RunFolder.of(empty).prepare(empty, existing)  # type: ignore[arg-type]  # one of the three
    assert load(RunFolder.of(empty).config) == empty


@pytest.mark.parametrize("finished", [False, True])
def test_an_existing_run_is_refused(finished: bool, tmp_path: Path) -> None:
    """The text says whether it ended, and names the three ways out; nothing in the folder changes."""
    config = config_in(tmp_path)
    folder = RunFolder.of(config)
    folder.prepare(config, "refuse")
    folder.metrics.write_text("precious")
    if finished:
        folder.summary.write_text("{}")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError) as caught:
        folder.prepare(config_in(tmp_path, seed=1), "refuse")
    for text in (str(folder.path), "a finished run" if finished else "an unfinished run", "--resume", "--overwrite"):
        assert text in str(caught.value)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_resume_keeps_and_overwrite_clears(tmp_path: Path) -> None:
    """Resuming leaves everything but the configuration; overwriting leaves nothing of the old run."""
    config = config_in(tmp_path)
    folder = RunFolder.of(config)
    folder.prepare(config, "refuse")
    folder.checkpoints(0).mkdir(parents=True)
    folder.metrics.write_text("precious")
    longer = config_in(tmp_path, rounds=500)
    folder.prepare(longer, "resume")
    assert folder.metrics.read_text() == "precious"
    assert load(folder.config) == longer
    folder.prepare(config, "overwrite")
    assert load(folder.config) == config
    assert {path.name for path in folder.path.iterdir()} == {"config.yaml", "logs"}


@pytest.mark.parametrize("existing", ["refuse", "resume", "overwrite"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_no_run_is_never_touched(what: str, existing: str, tmp_path: Path) -> None:
    """A folder without a config.yaml, or a file of the run's name, is refused and kept, even under overwrite."""
    config = config_in(tmp_path)
    path = tmp_path / "r"
    if what == "folder":
        path.mkdir()
    precious = path / "thesis.txt" if what == "folder" else path
    precious.write_text("years of work")
    with pytest.raises(RunFolderError, match=r"exists and is not a run \(no config\.yaml\); choose another run\.name"):
        RunFolder.of(config).prepare(config, existing)  # type: ignore[arg-type]  # one of the three
    assert precious.read_text() == "years of work"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The text names run.out, the folder, the system's reason and the setting to change."""
    (tmp_path / "file").write_text("")
    config = config_in(tmp_path / "file")
    with pytest.raises(RunFolderError) as caught:
        RunFolder.of(config).prepare(config, "refuse")
    for text in (f"run.out = '{tmp_path / 'file'}'", str(tmp_path / "file" / "r"), "Not a directory", "--set run.out="):
        assert text in str(caught.value)


class Holder:
    """Another process that tries to host a peer; it lives until it is told to end."""

    def __init__(self, folder: RunFolder, peer: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder.path), str(peer)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)


def test_a_peer_is_hosted_by_one_process(tmp_path: Path) -> None:
    """A second process is refused by name, in both directions; the lock ends with its process, even a killed one."""
    folder = RunFolder(tmp_path / "r")
    other = Holder(folder, 1)
    try:
        assert other.said == "held\n"
        with pytest.raises(RunFolderError, match=rf"peer 1 of {folder.path} is hosted by another process right now"):
            PeerLock(folder, 1)
        PeerLock(folder, 0).release()
    finally:
        other.kill()
    mine = PeerLock(folder, 1)
    late = Holder(folder, 1)
    late.kill()
    assert late.said.startswith("refused peer 1 of ")
    mine.release()
    PeerLock(folder, 1).release()


def test_a_lock_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file where the folder should be is named."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*peer-000"):
        PeerLock(RunFolder(tmp_path), 0)


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write either takes the place of the old file or leaves it, and cleans up after itself."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _refuse)
            with pytest.raises(OSError, match="no space"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def _refuse(*_: object) -> None:
    raise OSError("no space")
