"""Who is where, as far as a configuration says."""

from __future__ import annotations

from coordinator.doctor.findings import Subject
from peers.common.hosts import WILDCARDS, host_and_port, host_in, stays_here


def serves_here(subject: Subject) -> bool:
    """Whether the group's coordinator would run on this machine."""
    launcher = subject.config.launcher
    elsewhere = launcher.kind == "slurm" or (launcher.kind == "ray" and launcher.ray.coordinator == "actor")
    return subject.address is None and not elsewhere


def beyond(subject: Subject) -> bool:
    """Whether the group reaches beyond this machine."""
    config = subject.config
    hosts = [host_in(config.coordinator.bind)]
    if subject.address is not None:
        hosts.append(host_in(subject.address))
    clusters = (config.launcher.kind == "slurm", config.launcher.kind == "ray" and config.launcher.ray.address)
    return any(clusters) or not all(map(stays_here, hosts))


def coordinator_hosts(subject: Subject) -> tuple[str, ...]:
    """By which names peers reach the coordinator, as far as the configuration says."""
    asked = subject.config.coordinator
    if subject.address is not None:
        return (host_in(subject.address),)
    if asked.advertise is not None:
        try:
            return (host_and_port(asked.advertise)[0],)
        except ValueError:
            return ()  # the check of the network says so
    host = host_in(asked.bind)
    return () if host in WILDCARDS else (host,)
