"""Training rounds a second of the whole product: what does the exchange cost, and what all that surrounds it?

    uv run python -m tests.benchmarks.step [--networks mlp convnet] [--peers 2 4 8] [--passes 7] [--seconds 1.5] [--gpu]

Each arrangement runs the product's own trainer. Two yardsticks: the same processes without an exchange, which is the
limit of what any exchange could reach; and a researcher's loop in one process with plain torch (step_loop.py).
Processes are started once for each load and are idle while another arrangement has its pass. With an exchange a pass
ends for all at once; without one, when the slowest process has done its rounds.

`--gpu` measures ResNet-18 on one GPU instead (step_gpu.py). `--toy` makes networks of milliseconds, to try the script.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks import step_gpu
from tests.benchmarks.measure import Figure, Table, over, save
from tests.benchmarks.step_cases import LOOPS, NETWORKS, Arrangement, arrangements, in_step, limit, limits, load_of
from tests.benchmarks.step_groups import measured

PEERS = {"mlp": (2, 4, 8), "convnet": (2, 4)}
"""Sizes of groups, for each network, that are measured by default."""

Passes = Mapping[str, Sequence[float]]
"""Rounds a second of each pass, by arrangement."""


def rates(network: str, found: Mapping[int, Passes], batch: int) -> Table:
    """Rounds a second of every arrangement of one network, by number of peers."""
    rows = []
    for peers, passes in found.items():
        cases = [each for each in arrangements(peers, compiled=True) if each.name in passes]
        loop = max((passes[each.name] for each in LOOPS), key=statistics.median)
        held = in_step(cases, peers)
        for each in [*cases, *limits(cases, peers), *held, *LOOPS]:
            rate, bound = passes[each.name], passes.get(limit(each, peers).name, ())
            of_limit = over(rate, bound).text() if each in cases or each in held else ""
            of_loop = over(rate, loop).text() if each not in LOOPS else ""
            texts = Figure.of(rate).text(1), Figure.of(rate).text(0, batch * peers)
            rows.append([f"{peers} peers, {each.name}", *texts, of_limit, of_loop])
    return Table(
        f"Training rounds of {network}",
        "Median of the passes with quartiles; ratios are taken pass by pass, to the faster of the two loops. An image "
        "counts once for each peer. The same processes without an exchange show what an exchange could reach at best, "
        "with a barrier, what it could if all have to wait for the slowest in every round.",
        ["arrangement", "rounds/s", "images x peers / s", "ratio to no exchange", "ratio to researcher's loop"],
        rows,
    )


def overheads(found: Mapping[str, Mapping[int, Passes]]) -> Table:
    """What the exchange adds to the time of a round, in percent, of all networks."""
    columns = [(network, peers) for network, groups in found.items() for peers in groups]
    cases = (each.name for network, peers in columns for each in _compared(peers))
    names = [name for name in dict.fromkeys(cases) if any(name in found[network][peers] for network, peers in columns)]
    rows = [[name, *(_overhead(found[network][peers], peers, name) for network, peers in columns)] for name in names]
    return Table(
        "What the exchange adds to a round",
        "Percent of the time that the same processes need for a round without an exchange: median of the passes with "
        "quartiles. Of it a barrier alone, at which they wait for the slowest, takes what its line says.",
        ["arrangement", *(f"{network}, {peers} peers" for network, peers in columns)],
        rows,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and save."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.gpu and min(given.peers or [2]) < 2:
        parser.error("--peers: a group with an exchange has two peers or more")
    if given.gpu:
        tables, details = step_gpu.measure(given)
        save("step_gpu", tables, details, given.out)
        return
    found: dict[str, dict[int, Passes]] = {}
    tables = []
    for network in given.networks or PEERS:
        for peers in given.peers or PEERS.get(network, (2,)):
            cases = arrangements(peers, compiled=not given.toy)
            load = load_of(network, peers, toy=given.toy, device=given.device or "cpu")
            everyone = [*cases, *limits(cases, peers), *in_step(cases, peers), *LOOPS]
            found.setdefault(network, {})[peers] = measured(load, everyone, given.passes, given.seconds).rates
        batch = load_of(network, 2, toy=given.toy).config("none", 1).data.batch
        tables.append(rates(network, found[network], batch))
    details = {"rounds a second of each pass": found, "toy": given.toy}
    save("_".join(["step", *found]), [*tables, overheads(found)], details, given.out)


def _overhead(passes: Passes, peers: int, name: str) -> str:
    case = next((each for each in _compared(peers) if each.name == name), None)
    if case is None or name not in passes:
        return ""
    slower = over(passes[limit(case, peers).name], passes[name])
    return Figure(slower.median - 1, slower.low - 1, slower.high - 1).text(1, 100)


def _compared(peers: int) -> list[Arrangement]:
    """All whose rounds may be compared with those of the same processes without an exchange."""
    cases = arrangements(peers, compiled=True)
    return [*cases, *in_step(cases, peers)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.step", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), help="default: mlp convnet")
    parser.add_argument("--peers", nargs="+", type=int, help="sizes of groups; default: those of each network")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="about so long is a pass")
    parser.add_argument("--out", type=Path, help="file of the results")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cpu, with --gpu cuda")
    parser.add_argument("--toy", action="store_true", help="networks of milliseconds: to try the script")
    parser.add_argument("--gpu", action="store_true", help="ResNet-18 on one GPU instead")
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 1024], help="images in a round, of --gpu")
    parser.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off", "on"], help="of --gpu")
    return parser


if __name__ == "__main__":
    main()
