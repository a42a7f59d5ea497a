"""What the doctor's tests examine: configurations of settings, and the levels of what is found."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.doctor.findings import Check, Finding, Subject, guarded


def subject(*sets: str, address: str | None = None) -> Subject:
    """The defaults with these settings, which must make a configuration."""
    examined = Subject.of(None, sets, address)
    assert examined.problem is None
    return examined


def levels(check: Check, *sets: str, address: str | None = None) -> list[str]:
    """Level of each finding of a check."""
    return graded(guarded("check", check(subject(*sets, address=address))))


def graded(findings: Iterable[Finding]) -> list[str]:
    """Level of each finding; each that is not ok says what to do."""
    findings = list(findings)
    assert all(bool(finding.remedy) == (finding.level != "ok") for finding in findings), findings
    return [finding.level for finding in findings]
