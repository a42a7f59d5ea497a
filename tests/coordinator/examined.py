"""What the doctor's tests examine: configurations of settings, and findings of which one is a fault."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.doctor.findings import Check, Finding, Subject


def subject(*sets: str, address: str | None = None) -> Subject:
    """The subject of the defaults with these settings, which must make a configuration."""
    made = Subject.of(None, sets, address)
    assert made.problems == ()
    return made


def levels(check: Check, *sets: str, address: str | None = None) -> list[str]:
    """How grave each finding of a check is."""
    return [finding.level for finding in check(subject(*sets, address=address))]


def faults(found: Iterable[Finding]) -> list[Finding]:
    """The findings that are not ok; each says what to do."""
    bad = [finding for finding in found if finding.level != "ok"]
    assert all(finding.remedy for finding in bad), bad
    return bad


def fault(found: Iterable[Finding], level: str, *words: str) -> Finding:
    """The one finding that is not ok: of this level, and with these words."""
    (bad,) = faults(found)
    assert bad.level == level, bad
    for word in words:
        assert word in bad.text, bad
    return bad
