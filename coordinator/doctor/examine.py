"""`coordinator doctor`: runs every check, shows what each found, and ends with 2 if anything is an error."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from coordinator.doctor import credentials, group, images, machine, network, processors, reach, software, storage
from coordinator.doctor.findings import Check, Finding, Subject, error
from peers.common.errors import ConfigError, PeersError

CHECKS: tuple[tuple[str, Check], ...] = (
    ("configuration", group.configuration),
    ("packages", software.packages),
    ("launcher", software.launcher),
    ("processor", processors.processor),
    ("GPU", processors.gpu),
    ("data", images.data),
    ("disk", storage.disk),
    ("shared memory", storage.shared_memory),
    ("open files", machine.open_files),
    ("host name", network.host_name),
    ("interface", network.interface),
    ("advertise", network.advertise),
    ("ports", network.ports),
    ("token", credentials.token),
    ("certificates", credentials.certificates),
    ("coordinator", reach.coordinator),
)
"""In the order in which they are shown; the name is used where a check itself fails."""

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
INDENT = " " * 24


def doctor(path: str | None, sets: Sequence[str], address: str | None, *, as_json: bool) -> int:
    """Examine this machine for a configuration and print what is found, as it is found.

    Args:
        path: the configuration; None stands for the defaults.
        sets: `key.path=value` settings on top.
        address: of a coordinator, instead of exchange.address.
        as_json: a JSON object a line instead of text.

    Returns:
        0, or 2 where something is an error.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what its core would log of a failed handshake is a finding here
    screen = Console(highlight=False, soft_wrap=True)
    found: Counter[str] = Counter()
    for finding in examine(Subject.of(path, tuple(sets), address)):
        found[finding.level] += 1
        if as_json:
            sys.stdout.write(json.dumps(finding.as_json()) + "\n")
            sys.stdout.flush()
        else:
            screen.print(line(finding))
    if not as_json:
        screen.print(f"{found['error']} errors, {found['warning']} warnings, {found['ok']} ok")
    return ConfigError.exit_code if found["error"] else 0


def examine(subject: Subject, checks: Sequence[tuple[str, Check]] = CHECKS) -> Iterator[Finding]:
    """What all checks find; one that fails itself is a finding, and the others still run."""
    for name, check in checks:
        try:
            yield from check(subject)
        except PeersError as exc:
            yield error(name, str(exc), "mend what the text names")
        except Exception as exc:
            text = f"this check could not be made: {type(exc).__name__}: {exc}"
            yield error(name, text, "mend what the text names; if it names nothing of yours, report it as a defect")


def line(finding: Finding) -> Text:
    """A finding for a reader: level, name and text, then what to do."""
    shown = Text.assemble((f"{finding.level:<8}", STYLES[finding.level]), f"{finding.name:<16}")
    shown.append(finding.text.replace("\n", f"\n{INDENT}"))
    if finding.remedy:
        shown.append(f"\n{INDENT}-> {finding.remedy}", style="bold")
    return shown
