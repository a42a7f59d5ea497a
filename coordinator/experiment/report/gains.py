"""Gains with their intervals: a figure and a table for each probe, and the claim against every other arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.experiment.matrix import SUPERVISED
from coordinator.experiment.power import detectable
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.palette import REFERENCES, Look
from coordinator.experiment.report.render import ReportPart, ReportSection, Table, TableCell, TableColumn, render
from coordinator.experiment.report.words import NONE, headed, interval, number, p_value, signed, spread
from coordinator.experiment.results import BEFORE, PIXELS
from coordinator.experiment.show import beats
from coordinator.experiment.statistics import Comparison

Looks = Mapping[str, Look]
ROW = 34
"""Height of an arm in a figure, in points."""

_TESTED = (
    TableColumn("95 % interval, t"),
    TableColumn("95 % interval, bootstrap"),
    TableColumn("p"),
    TableColumn("p, Holm"),
    TableColumn("p, Wilcoxon"),
    TableColumn("d_z"),
    TableColumn("seeds, 80 % power"),
)


def section(experiments: Sequence[ExperimentFolder], looks: Looks) -> ReportSection:
    """Gains of all experiments."""
    parts = [_part(experiment, looks) for experiment in experiments]
    return ReportSection("gains", "Gain and its intervals", parts, headed=len(parts) > 1)


def _part(experiment: ExperimentFolder, looks: Looks) -> ReportPart:
    results = experiment.results
    gained = [_gain_panel(experiment, probe, looks) for probe in results.gains]
    against = [_claim_panel(experiment, probe, looks) for probe in results.comparisons if results.comparisons[probe]]
    n = len(results.seeds)
    body = render(
        "gains",
        results=results,
        legend=[looks[arm] for arm in experiment.arms],
        gained=gained,
        gain_tables={probe: _gain_table(experiment, probe, looks) for probe in results.gains},
        bound=SUPERVISED if any(SUPERVISED in arms for arms in results.arms.values()) else None,
        against=against,
        claim_tables={probe: _claim_table(experiment, probe, looks) for probe in results.comparisons},
        seed_tables={probe: _seed_table(experiment, probe, looks) for probe in results.values},
        detectable=detectable(n) if n > 1 else None,
    )
    return ReportPart(f"gains-{experiment.key}", experiment.title, body, [*gained, *against])


def _gain_panel(experiment: ExperimentFolder, probe: str, looks: Looks) -> Panel:
    results = experiment.results
    pairs = {arm: (results.values[probe][arm], results.values[probe][BEFORE]) for arm in results.gains[probe]}
    title = f"{headed(probe)}: gain, points"
    return _forest(f"gain-{experiment.key}-{probe}", title, experiment, results.gains[probe], pairs, looks)


def _claim_panel(experiment: ExperimentFolder, probe: str, looks: Looks) -> Panel:
    results = experiment.results
    claim, comparisons = results.values[probe][results.claim], results.comparisons[probe]
    # Raw pixels are far off on small data sets: the arms would be squeezed into a corner. They are in the table.
    shown = [arm for arm in comparisons if arm != PIXELS] or list(comparisons)
    pairs = {arm: (claim, results.values[probe][arm]) for arm in shown}
    title = f"{headed(probe)}: {results.claim} minus …, points"
    return _forest(f"claim-{experiment.key}-{probe}", title, experiment, comparisons, pairs, looks)


def _forest(
    name: str,
    title: str,
    experiment: ExperimentFolder,
    comparisons: Mapping[str, Comparison],
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    looks: Looks,
) -> Panel:
    """Differences with their intervals, an arm a row, and those of single seeds below.

    Args:
        name: of the files.
        title: of the panel.
        experiment: whose.
        comparisons: of each arm.
        pairs: of each arm that is shown, what is compared, seed by seed.
        looks: of all arms.
    """
    rows = [(_look(arm, looks), comparisons[arm], *pair) for arm, pair in pairs.items()]

    def paint(canvas: Canvas) -> None:
        canvas.zero(vertical=True)
        for place, (look, comparison, one, other) in enumerate(rows):
            for step, (seed, a, b) in enumerate(zip(experiment.results.seeds, one, other, strict=True)):
                below = place + 0.25 + 0.06 * (step % 3)  # apart, so that equal seeds stay visible
                canvas.dot(look, a - b, below, f"{look.name}, seed {seed}: {signed(a - b, 2)}", size=4.8, faint=True)
            says = f"{look.name}: {_short(comparison)}"
            canvas.estimate(look, place, comparison.difference, comparison.t_interval, says, across=True, size=8)
            canvas.note(place, signed(comparison.difference))
        canvas.ticks([look.name for look, *_ in rows], vertical=True)
        canvas.axes.set_ylim(len(rows) - 0.4, -0.5)
        canvas.axes.grid(visible=False, axis="y")
        canvas.axes.margins(x=0.06)

    texts = "; ".join(f"{look.name} {_short(comparison)}" for look, comparison, *_ in rows)
    return draw(name, title, f"{title}. {texts}", paint, height=64 + ROW * len(rows))


def _gain_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> Table:
    results = experiment.results
    rows = []
    for arm, summary in results.arms[probe].items():
        gain = results.gains[probe].get(arm)
        tested = [TableCell(NONE)] * (len(_TESTED) + 1) if gain is None else _tested(gain)
        accuracy = TableCell(spread(summary.mean, summary.deviation), summary.mean)
        rows.append([TableCell(arm, look=_look(arm, looks)), accuracy, *tested])
    columns = [TableColumn("arm", numeric=False), TableColumn("accuracy, %"), TableColumn("gain"), *_TESTED]
    return Table(columns, rows)


def _claim_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> Table:
    results = experiment.results
    columns = [TableColumn(f"{results.claim} minus", numeric=False), TableColumn("difference"), *_TESTED]
    rows = results.comparisons[probe].items()
    return Table(columns, [[TableCell(arm, look=_look(arm, looks)), *_tested(one)] for arm, one in rows])


def _seed_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> Table:
    results = experiment.results
    columns = [TableColumn("arm", numeric=False), *(TableColumn(f"seed {seed}") for seed in results.seeds)]
    rows = [
        [TableCell(arm, look=_look(arm, looks)), *(TableCell(number(value, 2), value) for value in sample)]
        for arm, sample in results.values[probe].items()
    ]
    return Table(columns, rows)


def _tested(comparison: Comparison) -> list[TableCell]:
    """A difference, and all that says how sure it is."""
    t, bootstrap = comparison.t_interval, comparison.bootstrap_interval
    seeds = comparison.seeds_80
    return [
        TableCell(signed(comparison.difference), comparison.difference, strong=beats(comparison)),
        TableCell(interval(t), t and t[0]),
        TableCell(interval(bootstrap), bootstrap and bootstrap[0]),
        TableCell(p_value(comparison.p), comparison.p),
        TableCell(p_value(comparison.corrected), comparison.corrected),
        TableCell(p_value(comparison.wilcoxon_p), comparison.wilcoxon_p),
        TableCell(number(comparison.d_z), comparison.d_z),
        TableCell(NONE if seeds is None else f"{seeds:,}", seeds),
    ]


def _look(arm: str, looks: Looks) -> Look:
    return REFERENCES.get(arm) or looks[arm]


def _short(comparison: Comparison) -> str:
    ends = "" if comparison.t_interval is None else f" ({interval(comparison.t_interval)})"
    return f"{signed(comparison.difference)}{ends}"
