"""`coordinator doctor`: runs every check and prints what it finds; the exit code is 2 if anything is an error."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from coordinator.doctor import credentials, machine, network, software
from coordinator.doctor.findings import Check, Finding, Subject, guarded
from peers.common.errors import ConfigError

CHECKS: dict[str, Check] = {
    "configuration": software.configuration,
    "packages": software.packages,
    "launcher": software.launcher,
    "processor": machine.processor,
    "GPU": machine.gpu,
    "data": software.data,
    "disk": machine.disk,
    "shared memory": machine.shared_memory,
    "open files": machine.open_files,
    "host name": network.host_name,
    "interface": network.interface,
    "advertise": network.advertise,
    "ports": network.ports,
    "token": credentials.token,
    "certificates": credentials.certificates,
    "coordinator": network.coordinator,
}
"""All checks, in the order in which they are shown. The name stands for a check that fails itself."""

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
INDENT = " " * 24


def doctor(path: str | None, sets: Sequence[str], address: str | None, *, as_json: bool) -> int:
    """Examine this machine for a configuration and print each finding at once.

    Args:
        path: the configuration; None stands for the defaults.
        sets: `key.path=value` settings on top.
        address: of a coordinator, instead of exchange.address.
        as_json: a JSON object a line instead of text.

    Returns:
        0, or 2 where something is an error.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a failed handshake is a finding here, not a line of gRPC's log
    screen = Console(highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    for finding in examine(Subject.of(path, tuple(sets), address)):
        counts[finding.level] += 1
        if as_json:
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
            sys.stdout.flush()
        else:
            screen.print(line(finding))
    if not as_json:
        screen.print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")
    return ConfigError.exit_code if counts["error"] else 0


def examine(subject: Subject, checks: dict[str, Check] = CHECKS) -> Iterator[Finding]:
    """All findings; a check that fails itself becomes an error, and the others still run."""
    for name, check in checks.items():
        yield from guarded(name, check(subject))


def line(finding: Finding) -> Text:
    """A finding for a reader: level, name and text, the remedy below."""
    shown = Text.assemble((f"{finding.level:<8}", STYLES[finding.level]), f"{finding.name:<16}")
    shown.append(finding.text.replace("\n", f"\n{INDENT}"))
    if finding.remedy:
        shown.append(f"\n{INDENT}-> {finding.remedy}", style="bold")
    return shown
