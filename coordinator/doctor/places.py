"""Who is where, as far as a configuration says."""

from __future__ import annotations

from coordinator.doctor.findings import Subject
from peers.hosts import WILDCARDS, host_and_port, stays_here


def serves_here(subject: Subject) -> bool:
    """Whether the group's coordinator would run on this machine."""
    launcher = subject.config.launcher
    elsewhere = launcher.kind == "slurm" or (launcher.kind == "ray" and launcher.ray.coordinator == "actor")
    return subject.address is None and not elsewhere


def beyond(subject: Subject) -> bool:
    """Whether the group reaches beyond this machine."""
    config = subject.config
    hosts = [config.coordinator.bind.rpartition(":")[0].strip("[]")]
    if subject.address is not None:
        hosts.append(subject.address.rpartition(":")[0].strip("[]"))
    clusters = (config.launcher.kind == "slurm", config.launcher.kind == "ray" and config.launcher.ray.address)
    return any(clusters) or not all(map(stays_here, hosts))


def coordinator_hosts(subject: Subject) -> tuple[str, ...]:
    """By which names peers reach the coordinator, as far as the configuration says."""
    asked = subject.config.coordinator
    if subject.address is not None:
        return (subject.address.rpartition(":")[0].strip("[]"),)
    if asked.advertise is not None:
        try:
            return (host_and_port(asked.advertise)[0],)
        except ValueError:
            return ()  # the check of the network says so
    host = asked.bind.rpartition(":")[0].strip("[]")
    return () if host in WILDCARDS else (host,)
