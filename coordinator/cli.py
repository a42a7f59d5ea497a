"""The command line `coordinator`: parsing and printing only. Exit codes: see `peers.errors`; 128 + n for signal n."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from peers.errors import PeersError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except PeersError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coordinator", description="Runs groups of peers that learn by consensus.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    launch = commands.add_parser("launch", help="start a run, watch it, print its results")
    launch.add_argument("config", metavar="CONFIG", help="YAML configuration, e.g. deploy/local.yaml")
    launch.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one value, e.g. run.seed=1; repeatable"
    )
    launch.add_argument("--dry-run", action="store_true", help="print what would be started, and stop")
    existing = launch.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", choices=["auto", "never"], default="never", help="auto: continue from the newest common checkpoint"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the run if it exists")
    launch.set_defaults(run=_launch)
    return parser


def _launch(options: argparse.Namespace) -> int:
    from coordinator.launch.plan import make_plan
    from peers import configfile
    from peers.runfolder import Existing

    plan = make_plan(configfile.load(options.config, options.set))
    if options.dry_run:
        sys.stdout.write(plan.text() + "\n")
        return 0
    from coordinator.launch.run import run_plan  # imports torch: --help and --dry-run do without

    existing: Existing = "overwrite" if options.overwrite else "resume" if options.resume == "auto" else "refuse"
    return run_plan(plan, existing, Console(highlight=False))
