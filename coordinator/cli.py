"""The command line `coordinator`: parsing and printing only.

Exit codes: see `peers.common.errors`; 128 + n for signal n.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from coordinator import recipes
from peers.common.errors import ConfigError, PeersError

if TYPE_CHECKING:
    from peers.transport.access import Access

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except PeersError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coordinator", description="Runs groups of peers that learn by consensus.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_init(commands.add_parser("init", help="write a recipe, ready to launch, into this folder"))
    _add_launch(commands.add_parser("launch", help="start a run, watch it, print its results"))
    _add_experiment(commands.add_parser("experiment", help="compare arms over seeds, with controls and statistics"))
    _add_sweep(commands.add_parser("sweep", help="vary settings over a grid, at random, or by ASHA"))
    _add_report(commands.add_parser("report", help="make one HTML page of experiments and sweeps"))
    _add_serve(commands.add_parser("serve", help="run the service that closes rounds, for workers started by hand"))
    _add_status(commands.add_parser("status", help="show what a coordinator's group is doing"))
    _add_stop(commands.add_parser("stop", help="end a coordinator's run, for all its peers"))
    _add_certs(commands.add_parser("certs", help="make certificates for a coordinator beyond this machine"))
    _add_replay(commands.add_parser("replay", help="run a run again from its journals, and compare bit for bit"))
    _add_doctor(commands.add_parser("doctor", help="find what stands between this machine and a run"))
    return parser


def _add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    count = None if required else "?"
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs=count,
        type=recipes.find,
        help="YAML configuration, e.g. deploy/local.yaml, or the name of a recipe, e.g. local",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one value, e.g. run.seed=1; repeatable"
    )


class _Version(argparse.Action):
    """Prints the version; reads the package's metadata only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('peer-consensus')}\n")
        parser.exit()


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="local", help="of the recipe; default: local")
    parser.add_argument("--list", action="store_true", help="show the recipes instead")
    parser.set_defaults(run=_init)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, and stop")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", choices=["auto", "never"], default="never", help="auto: continue from the newest common checkpoint"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the run if it exists")
    parser.set_defaults(run=_launch)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="begin anew; without it, finished groups are kept")
    parser.set_defaults(run=_experiment)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="begin anew; without it, finished groups are kept")
    parser.set_defaults(run=_sweep)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", help="folder of an experiment or a sweep, e.g. runs/digits"
    )
    parser.add_argument("--out", metavar="DIR", help="where report.html and its figures go; by default the first DIR")
    parser.set_defaults(run=_report)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--bind", metavar="HOST:PORT", help="instead of coordinator.bind; port 0 takes a free one")
    parser.add_argument("--address-file", metavar="FILE", help="gets HOST:PORT as soon as the coordinator listens")
    parser.add_argument("--state", metavar="DIR", help="instead of coordinator.state")
    parser.add_argument("--upstream", metavar="ADDRESS", help="be a relay of the coordinator at HOST:PORT")
    parser.add_argument("--peers", metavar="FIRST-LAST", help="with --upstream: peer ids that the relay answers for")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    parser.set_defaults(run=_serve)


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT of the coordinator")
    _add_secrets(parser)


def _add_secrets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--certs", metavar="DIR", help="folder made by `coordinator certs`, where TLS is on")
    parser.add_argument("--mutual", action="store_true", help="show the peer's certificate of that folder")
    parser.add_argument("--token-file", metavar="FILE", help="group's secret; by default environment PEERS_TOKEN")


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_access(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, a line for each state")
    parser.add_argument("--watch", action="store_true", help="again whenever it changes, until the coordinator ends")
    parser.set_defaults(run=_status)


def _add_stop(parser: argparse.ArgumentParser) -> None:
    _add_access(parser)
    parser.add_argument("--reason", default="stopped by `coordinator stop`", help="for the peers and their logs")
    parser.set_defaults(run=_stop)


def _add_certs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where they are written; must not hold any yet")
    parser.add_argument(
        "--host",
        metavar="NAME",
        action="append",
        required=True,
        help="name or address by which peers reach the coordinator; repeatable",
    )
    parser.set_defaults(run=_certs)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="folder of the run, e.g. runs/digits; nothing in it is changed")
    parser.add_argument("--state", metavar="DIR", help="the coordinator's; by default where the configuration says")
    parser.add_argument("--json", action="store_true", help="what was compared and what differs, as one JSON object")
    parser.set_defaults(run=_replay)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_config(parser, required=False)
    parser.add_argument("--address", metavar="HOST:PORT", help="coordinator to reach from here; else exchange.address")
    _add_secrets(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object for each finding, a line each")
    parser.set_defaults(run=_doctor)


def _init(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{recipes.describe() if options.list else recipes.write(options.name)}\n")
    return 0


def _require_experiment() -> None:
    """Refuse a command whose packages come with the extra `experiment`, where one of them is missing."""
    needed = ("jinja2", "matplotlib", "optuna", "pyarrow", "scipy", "sklearn")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(f'missing: {", ".join(missing)}; pip install "peer-consensus[experiment]"')


def _launch(options: argparse.Namespace) -> int:
    from rich.console import Console

    from coordinator.launch.plan import make_plan
    from peers.config import loading as configfile
    from peers.runs.run_folder import Existing

    plan = make_plan(configfile.load(options.config, options.set))
    if options.dry_run:
        sys.stdout.write(plan.text() + "\n")
        return 0
    from coordinator.launch.run import run_plan  # --help and --dry-run do without what it imports

    existing: Existing = "overwrite" if options.overwrite else "resume" if options.resume == "auto" else "refuse"
    return run_plan(plan, existing, Console(highlight=False, markup=False))


def _experiment(options: argparse.Namespace) -> int:
    _require_experiment()
    from rich.console import Console

    from coordinator.experiment.command import experiment

    screen = Console(highlight=False, markup=False)
    return experiment(options.config, options.set, overwrite=options.overwrite, console=screen)


def _sweep(options: argparse.Namespace) -> int:
    _require_experiment()
    from rich.console import Console

    from coordinator.experiment.command import sweep

    return sweep(
        options.config, options.set, overwrite=options.overwrite, console=Console(highlight=False, markup=False)
    )


def _report(options: argparse.Namespace) -> int:
    _require_experiment()
    from rich.console import Console

    from coordinator.experiment.report.command import report

    return report(options.folders, options.out, console=Console(highlight=False, markup=False))


def _serve(options: argparse.Namespace) -> int:
    from coordinator.service import logs, one_core

    logs.set_up(options.log_level, as_json=options.log_json)  # before gRPC is imported
    one_core()
    from coordinator.service.from_config import settings_of
    from coordinator.service.relay.start import peer_ids_of, serve_relay
    from coordinator.service.server import serve
    from peers.config import loading as configfile
    from peers.config.credentials import access
    from peers.worker.process import end_with_parent

    end_with_parent()
    try:
        config = configfile.load(options.config, options.set)
        ids = peer_ids_of(options.upstream, options.peers)
        settings = settings_of(config, bind=options.bind, state=options.state)
        logs.set_up(options.log_level, as_json=options.log_json, run=settings.run_id)
        if ids is None:
            return serve(settings, options.address_file)
        state = options.state or f"{settings.state}-{ids[0]}-{ids[1]}"
        upstream = access(config, options.upstream)
        return serve_relay(settings.changed(peer_ids=ids, state=state), upstream, options.address_file)
    except PeersError as exc:
        if not options.log_json:
            raise
        logger.error("%s", exc)  # a collector of JSON gets the last word, too
        return exc.exit_code


def _access(options: argparse.Namespace) -> Access:
    from peers.config.credentials import access
    from peers.config.loading import parse

    secrets = {"certs": options.certs, "mutual": options.mutual, "token_file": options.token_file}
    return access(parse({"security": secrets}), options.address)


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from coordinator import status as console

    where = _access(options)
    states = console.watched(where) if options.watch else iter([console.current(where)])
    if options.json:
        for state in states:
            sys.stdout.write(json.dumps(console.as_json(state)) + "\n")
            sys.stdout.flush()
        return 0
    screen = Console(highlight=False, markup=False)
    if not (options.watch and screen.is_terminal):
        for state in states:
            screen.print(console.picture(state))
        return 0
    with Live(console=screen) as live:
        for state in states:
            live.update(console.picture(state), refresh=True)
    return 0


def _stop(options: argparse.Namespace) -> int:
    from coordinator import status as console

    console.stop(_access(options), options.reason)
    return 0


def _certs(options: argparse.Namespace) -> int:
    from coordinator.certificates import make_certs

    certificates = make_certs(options.folder, options.host)
    for path in vars(certificates).values():
        sys.stdout.write(f"{path}\n")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from rich.console import Console

    from coordinator.replay.command import run

    return run(options.folder, options.state, as_json=options.json, console=Console(highlight=False, markup=False))


def _doctor(options: argparse.Namespace) -> int:
    from coordinator.doctor.examine import doctor

    secrets = {"certs": options.certs, "mutual": options.mutual or None, "token_file": options.token_file}
    sets = [f"security.{name}={json.dumps(value)}" for name, value in secrets.items() if value is not None]
    return doctor(options.config, [*options.set, *sets], options.address, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
