"""Are the images there, and do they fit the configuration?"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.doctor.findings import Finding, Subject, error, ok, warning
from peers.common.errors import DataError, PeersError


def data(subject: Subject) -> Iterator[Finding]:
    """Opens the images as a launch does, and says what identifies them."""
    grounds, asked = subject.grounds, subject.config.data
    if isinstance(grounds, DataError) and asked.download:
        text = f"data.name = {asked.name!r} is not there yet; data.download = true lets the first run fetch it"
        yield warning("data", text, "let one worker download it before many start at once")
    elif isinstance(grounds, DataError):
        remedy = "set PEERS_DATA or data.root to the folder of the images, or data.download = true"
        yield error("data", str(grounds), remedy)
    elif isinstance(grounds, PeersError):
        yield error("data", str(grounds), "change the named fields, in the file or with --set KEY=VALUE")
    else:
        found = grounds.data
        counts = f"{len(found.train)} images to train, {len(found.validation)} to validate, {len(found.test)} to test"
        yield ok("data", f"{asked.name}: {counts}, {'x'.join(map(str, found.shape))}; {grounds.rounds} rounds")
        yield ok("fingerprint", f"{found.fingerprint}: the same on every machine of the group")
