"""Generated code fits its source, and the contract explains itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_code_fits_its_source(tmp_path: Path) -> None:
    """Running the compiler again gives the committed files, byte for byte."""
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, "protos/consensus.proto"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    made = sorted(path.name for path in (tmp_path / "protos").iterdir())
    assert made == ["consensus_pb2.py", "consensus_pb2.pyi", "consensus_pb2_grpc.py"]
    for name in made:
        text = "run `python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. " + command[-1]
        assert (tmp_path / "protos" / name).read_text() == (ROOT / "protos" / name).read_text(), text


def test_every_reply_code_is_a_sentence() -> None:
    """Each reply code but the unspecified one is followed by a comment that ends with a full stop."""
    source = (ROOT / "protos" / "consensus.proto").read_text()
    block = source.split("enum ReplyCode {")[1].split("}")[0]
    codes = re.findall(r"^  ([A-Z_]+) = (\d+);(.*)$", block, re.MULTILINE)
    assert len(codes) > 15
    for name, number, comment in codes:
        assert number == "0" or re.fullmatch(r"\s*// [A-Z`].*\.", comment), name


def test_no_message_has_room_for_weights() -> None:
    """Bytes fields are digests, secrets and reports: tensors travel in frames alone, and frames carry outputs."""
    source = (ROOT / "protos" / "consensus.proto").read_text()
    found = set(re.findall(r"bytes(?:>)? (\w+) = ", source))
    assert found == {"request", "reports", "nonce", "key", "batch", "digest"}


def test_service_starts_without_torch() -> None:
    """Coordinator, client and contract import without torch, rich or yaml."""
    modules = "protos.frames, protos.tensors, coordinator.service.server, peers.transport.client"
    code = f"import sys, {modules}; print(sorted({{'torch', 'rich', 'yaml'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
