"""Does the system let a process have what a group needs?"""

from __future__ import annotations

import resource
from collections.abc import Iterator

from coordinator.doctor.findings import Finding, Subject, error, ok, warning

BASE = 48
"""Files and sockets that a process has open without its peers: logs, store, event loop, libraries."""
EACH = 2
"""For each peer: a connection, and its shared memory; or, without a coordinator, a connection each way."""


def open_files(subject: Subject) -> Iterator[Finding]:
    """The limit of open files against the connections of a coordinator, or of a worker to all others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    group = BASE + EACH * (subject.peers if subject.elastic else subject.workers)
    most = max(group, BASE + EACH * subject.config.coordinator.max_peers) if subject.elastic else group
    text = f"at most {soft} at a time, {subject.peers} peers need {group}"
    if soft == resource.RLIM_INFINITY:
        yield ok("open files", "no limit")
    elif soft < group:
        yield error("open files", text, _remedy(group, hard))
    elif soft < most:
        text += f", and coordinator.max_peers = {subject.config.coordinator.max_peers} need {most}"
        yield warning("open files", text, f"{_remedy(most, hard)}; or lower coordinator.max_peers")
    else:
        yield ok("open files", text)


def _remedy(need: int, hard: int) -> str:
    if hard != resource.RLIM_INFINITY and hard < need:
        return f"the hard limit is {hard}: have an administrator raise it (limits.conf, LimitNOFILE=) to {need}"
    return f"`ulimit -n {need}` in the shell that starts it, or LimitNOFILE={need} in its systemd unit"
