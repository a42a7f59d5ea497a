"""Settings of a coordinator from the configuration of its run, without torch and without images."""

from __future__ import annotations

from pathlib import Path

from coordinator.service.settings import ServiceSettings, Tls
from peers.common.errors import ConfigError
from peers.config.credentials import read_token
from peers.config.loading import identity, identity_digest, rounds_of, updated
from peers.config.schema import Config
from peers.method.target_selection import TargetSelection
from peers.networks.widths import common_width
from peers.runs.run_folder import RunFolder, run_name
from peers.worker.placement import DEFAULT_PEERS


def settings_of(config: Config, *, bind: str | None = None, state: str | None = None) -> ServiceSettings:
    """The settings of a run's coordinator.

    Args:
        config: of the run; open peers are settled as for a launch.
        bind: HOST:PORT instead of the configuration's.
        state: folder instead of the configuration's.

    Raises:
        ConfigError: what the coordinator needs cannot be known from the configuration, or makes no service.
    """
    if config.run.epochs is not None:
        raise ConfigError(
            f"run.epochs = {config.run.epochs}: a coordinator does not see the images that make an epoch; give "
            f"run.rounds"
        )
    config = updated(config, group={"peers": config.group.peers or DEFAULT_PEERS})
    rounds = rounds_of(config, 0)
    asked, times, certs = config.coordinator, config.exchange, config.security.certs
    tls = None
    if certs is not None:
        ca = str(Path(certs) / "ca.pem") if config.security.mutual else None
        tls = Tls(str(Path(certs) / "server.pem"), str(Path(certs) / "server.key"), ca)
    return ServiceSettings(
        **{
            **dict(asked),
            "bind": bind or asked.bind,
            "state": state or str(RunFolder.of(config).coordinator_state(config)),
            "max_peers": max(asked.max_peers, config.group.peers or DEFAULT_PEERS),
        },
        run_id=run_name(config),
        rule=TargetSelection.of(config.consensus, config.run.seed),
        rounds=rounds,
        shape=(config.data.batch, common_width(config)),
        group=config.group.peers or DEFAULT_PEERS,
        interface=times.interface,
        agreed={"configuration digest": identity_digest(identity(config, rounds)), "rounds": str(rounds)},
        heartbeat=times.heartbeat,
        round_deadline=times.round_deadline,
        join_window=times.join_window,
        token=read_token(config.security),
        tls=tls,
        insecure=config.security.insecure,
        shared_memory=times.shared_memory,
    )
