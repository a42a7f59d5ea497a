"""Several hosts on one machine: network namespaces that meet at a bridge, which has a namespace of its own.

Each host has its address on eth0, loopback, its own name, and an /etc/hosts with all names. The first host has its own
name at its address there, the others have theirs at 127.0.1.1, as Debian writes it. All share the file system. Nothing
of it is seen from outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NETNS = Path("/etc/netns")
"""Where `ip netns exec` looks for files that stand in for those of /etc."""
NAMED = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
PATIENCE = 20.0


def why_not() -> str | None:
    """What this machine lacks to have hosts; None where nothing is missing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"network namespaces need the program {program}"
    probe = f"peers-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        try:
            _ip("-n", probe, "link", "add", "bridge0", "type", "bridge")
            _ip("-n", probe, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        finally:
            _ip("netns", "del", probe)
    except OSError as exc:
        return str(exc)
    return None


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: its host name.
        address: by which the others reach it.
        namespace: its network.
        bridge: namespace of the bridge that all hosts meet at.
    """

    name: str
    address: str
    namespace: str
    bridge: str

    def command(self, *command: str) -> tuple[str, ...]:
        """A command as this host runs it; it keeps its process id, so that signals reach it."""
        return ("ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", NAMED, self.name, *command)

    def cut(self) -> None:
        """Pull the cable at the other end: what is sent is lost, and nobody is told."""
        _ip("-n", self.bridge, "link", "set", self.name, "down")

    def restore(self) -> None:
        """Plug it in again."""
        _ip("-n", self.bridge, "link", "set", self.name, "up")


@contextmanager
def hosts(names: Sequence[str] = ("hosta", "hostb", "hostc")) -> Iterator[list[Host]]:
    """Hosts that reach one another; whatever still runs on them is killed at the end."""
    ours = f"peers-{os.getpid()}"
    bridge = f"{ours}-bridge"
    made = [Host(name, f"10.99.0.{number}", f"{ours}-{name}", bridge) for number, name in enumerate(names, 1)]
    try:
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "bridge0", "up")
        for host in made:
            _add(host, made)
        yield made
    finally:
        for namespace in (*(host.namespace for host in made), bridge):
            _remove(namespace)
        with suppress(OSError):
            NETNS.rmdir()  # others may have theirs there


def _add(host: Host, all_: Sequence[Host]) -> None:
    own = host.address if host is all_[0] else "127.0.1.1"
    names = [f"{own if other is host else other.address} {other.name}" for other in all_]
    files = NETNS / host.namespace
    files.mkdir(parents=True)
    (files / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
    (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # where nobody listens: unknown names fail at once
    _ip("netns", "add", host.namespace)
    _ip("-n", host.namespace, "link", "set", "lo", "up")
    _ip("-n", host.bridge, "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("-n", host.bridge, "link", "set", host.name, "master", "bridge0", "up")
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.namespace, "link", "set", "eth0", "up")


def _remove(namespace: str) -> None:
    """Kill what runs in a namespace, and delete it with its interfaces and its files."""
    deadline = time.monotonic() + PATIENCE
    with suppress(OSError):  # it was never made
        while (pids := _ip("netns", "pids", namespace).split()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        _ip("netns", "del", namespace)
    shutil.rmtree(NETNS / namespace, ignore_errors=True)


def _ip(*arguments: str) -> str:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
