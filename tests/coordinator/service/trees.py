"""Trees of coordinators as real processes: a root, relays below it, light peers below those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.coordinator.service.processes import Coordinator, LightPeer


class Relay(Coordinator):
    """A relay's process; `start` may be called again after it died."""

    def __init__(self, folder: Path, above: Coordinator, first: int, last: int, **changes: Any) -> None:
        folder.mkdir()
        super().__init__(folder, peer_ids=(first, last), **changes)
        self.above = above
        self.first = first

    def start(self, *arguments: str) -> Relay:
        """See `Coordinator.start`."""
        super().start("--upstream", self.above.address, *arguments)
        return self


@dataclass
class Tree:
    """A root with relays, and the light peers that were started below them."""

    root: Coordinator
    relays: list[Relay]
    peers: dict[int, LightPeer] = field(default_factory=dict)

    def populate(self, *ids: int, pause: float = 0.01) -> None:
        """Start light peers, each below the relay that has its place."""
        for peer in ids:
            relay = max((relay for relay in self.relays if relay.first <= peer), key=lambda relay: relay.first)
            self.peers[peer] = LightPeer(relay, f"peer{peer}", "--peer", str(peer), "--pause", str(pause))


@contextmanager
def tree(
    folder: Path, *places: tuple[int, int], root_only: Mapping[str, Any] | None = None, **changes: Any
) -> Iterator[Tree]:
    """A root and relays for these ranges of ids, all listening; whatever is left of them is reaped."""
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        root = Coordinator(folder, **{**changes, **(root_only or {})})
        stack.callback(root.kill)
        made = Tree(root.start(), [])
        for place, (first, last) in enumerate(places):
            relay = Relay(folder / f"relay{place}", root, first, last, **changes)
            stack.callback(relay.kill)
            made.relays.append(relay.start())
        stack.callback(lambda: [peer.reap() for peer in made.peers.values()])
        yield made
