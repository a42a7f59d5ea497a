"""Gains with their intervals: a figure and a table for each probe, and the claim against every other arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.experiment import show
from coordinator.experiment.matrix import SUPERVISED
from coordinator.experiment.power import detectable
from coordinator.experiment.report import markup
from coordinator.experiment.report.figure import Canvas, Panel, draw
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.markup import Column, Entry, Section
from coordinator.experiment.report.palette import REFERENCES, Look
from coordinator.experiment.report.verdict import headed
from coordinator.experiment.report.words import NONE, count, interval, number, p_value, signed, spread
from coordinator.experiment.results import BEFORE, PIXELS
from coordinator.experiment.statistics import Comparison

Looks = Mapping[str, Look]
ROW = 34
"""Height of an arm in a figure, in points."""

_BOUND = f"{SUPERVISED}: the same networks, batches and optimizer, but with labels. An upper bound; it is in no test."
_TESTED = (
    Column("95 % interval, t"),
    Column("95 % interval, bootstrap"),
    Column("p"),
    Column("p, Holm"),
    Column("p, Wilcoxon"),
    Column("d_z"),
    Column("seeds, 80 % power"),
)


def section(experiments: Sequence[ExperimentFolder], looks: Looks) -> Section | None:
    """Gains of all experiments; None where there is none."""
    if not experiments:
        return None
    parts, panels, links = [], [], []
    for experiment in experiments:
        if len(experiments) > 1:
            links.append((f"gains-{experiment.key}", experiment.results.experiment))
            parts.append(markup.heading(3, experiment.results.experiment, links[-1][0]))
        body, drawn = _experiment(experiment, looks)
        parts.append(body)
        panels += drawn
    return Section("gains", "Gain and its intervals", "".join(parts), links, panels)


def _experiment(experiment: ExperimentFolder, looks: Looks) -> tuple[str, list[Panel]]:
    results = experiment.results
    n, legend = len(results.seeds), [looks[arm] for arm in experiment.arms]
    gained = [_gain_panel(experiment, probe, looks) for probe in results.gains]
    against = [_claim_panel(experiment, probe, looks) for probe in results.comparisons if results.comparisons[probe]]
    parts = [
        markup.figure(
            gained,
            f"Gain over the {BEFORE}, in points on the {results.split} split. Large marks: mean over "
            f"{count(n, 'seed')}; bars: 95 % interval by Student's t, paired with the same group before training; "
            f"small marks: single seeds.",
            legend,
        ),
        *(_gain_table(experiment, probe, looks) for probe in results.gains),
        *([markup.paragraph(_BOUND, "note")] if any(SUPERVISED in arms for arms in results.arms.values()) else []),
    ]
    if against:
        parts.append(markup.heading(4, f"{results.claim} against every other arm"))
        parts.append(
            markup.figure(
                against,
                f"Accuracy of {results.claim} minus that of each other arm of the same seed, in points; marks and bars "
                f"as above, {count(n, 'seed')}. To the right of 0, {results.claim} is better.",
            )
        )
        parts += [_claim_table(experiment, probe, looks) for probe in results.comparisons]
    seeds = "".join(_seed_table(experiment, probe, looks) for probe in results.values)
    parts += [markup.paragraph(_power(n), "note"), markup.details("Every seed", seeds)]
    return "".join(parts), [*gained, *against]


def _gain_panel(experiment: ExperimentFolder, probe: str, looks: Looks) -> Panel:
    results = experiment.results
    rows = [
        (looks[arm], gain, _differences(results.values[probe][arm], results.values[probe][BEFORE]))
        for arm, gain in results.gains[probe].items()
    ]
    name = f"gain-{experiment.key}-{probe}"
    return _forest(name, f"{headed(probe)}: gain, points", rows, results.seeds)


def _claim_panel(experiment: ExperimentFolder, probe: str, looks: Looks) -> Panel:
    results = experiment.results
    values = results.values[probe]
    rows = [
        (_look(arm, looks), comparison, _differences(values[results.claim], values[arm]))
        for arm, comparison in results.comparisons[probe].items()
        if arm != PIXELS  # far off on small data sets: the arms would be squeezed into a corner; it is in the table
    ] or [
        (_look(arm, looks), one, _differences(values[results.claim], values[arm]))
        for arm, one in results.comparisons[probe].items()
    ]
    name = f"claim-{experiment.key}-{probe}"
    return _forest(name, f"{headed(probe)}: {results.claim} minus …, points", rows, results.seeds)


def _forest(name: str, title: str, rows: Sequence[tuple[Look, Comparison, list[float]]], seeds: Sequence[int]) -> Panel:
    """Dots and intervals, an arm a row."""

    def paint(canvas: Canvas) -> None:
        canvas.zero(vertical=True)
        for place, (look, comparison, singles) in enumerate(rows):
            for step, (seed, value) in enumerate(zip(seeds, singles, strict=True)):
                below = place + 0.25 + 0.06 * (step % 3)  # apart, so that equal seeds stay visible
                canvas.dot(look, value, below, f"{look.name}, seed {seed}: {signed(value, 2)}", size=4.8, faint=True)
            if comparison.t_interval is not None:
                canvas.bar(look, comparison.t_interval, (place, place))
            canvas.dot(look, comparison.difference, place, f"{look.name}: {_short(comparison)}", size=8)
            canvas.axes.annotate(
                signed(comparison.difference),
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        canvas.ticks([look.name for look, _, _ in rows], vertical=True)
        canvas.axes.set_ylim(len(rows) - 0.4, -0.5)
        canvas.axes.grid(visible=False, axis="y")
        canvas.axes.margins(x=0.06)

    said = "; ".join(f"{look.name} {_short(comparison)}" for look, comparison, _ in rows)
    return draw(name, title, f"{title}. {said}", paint, height=64 + ROW * len(rows))


def _gain_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> str:
    results = experiment.results
    columns = [Column("arm", numeric=False), Column("accuracy, %"), Column("gain"), *_TESTED]
    rows = []
    for arm, summary in results.arms[probe].items():
        gain = results.gains[probe].get(arm)
        tested = [Entry(NONE)] * (len(_TESTED) + 1) if gain is None else [_difference(gain), *_tested(gain)]
        accuracy = Entry(spread(summary.mean, summary.deviation), summary.mean)
        rows.append([Entry(arm, look=_look(arm, looks)), accuracy, *tested])
    caption = (
        f"{headed(probe)}: accuracy (mean ± deviation over {count(len(results.seeds), 'seed')}) and gain over the "
        f"{BEFORE}"
    )
    return markup.table(caption, columns, rows)


def _claim_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> str:
    results = experiment.results
    columns = [Column(f"{results.claim} minus", numeric=False), Column("difference"), *_TESTED]
    rows = [
        [Entry(arm, look=_look(arm, looks)), _difference(one), *_tested(one)]
        for arm, one in results.comparisons[probe].items()
    ]
    caption = f"{headed(probe)}: {results.claim} minus each other arm, points, paired by seed"
    return markup.table(caption, columns, rows)


def _seed_table(experiment: ExperimentFolder, probe: str, looks: Looks) -> str:
    results = experiment.results
    columns = [Column("arm", numeric=False), *(Column(f"seed {seed}") for seed in results.seeds)]
    rows = [
        [Entry(arm, look=_look(arm, looks)), *(Entry(number(value, 2), value) for value in sample)]
        for arm, sample in results.values[probe].items()
    ]
    caption = f"{headed(probe)}: accuracy of each group, mean over its peers, percent on the {results.split} split"
    return markup.table(caption, columns, rows)


def _difference(comparison: Comparison) -> Entry:
    return Entry(signed(comparison.difference), comparison.difference, strong=show.beats(comparison))


def _tested(comparison: Comparison) -> list[Entry]:
    t, bootstrap = comparison.t_interval, comparison.bootstrap_interval
    seeds = comparison.seeds_80
    return [
        Entry(interval(t), t and t[0]),
        Entry(interval(bootstrap), bootstrap and bootstrap[0]),
        Entry(p_value(comparison.p), comparison.p),
        Entry(p_value(comparison.corrected), comparison.corrected),
        Entry(p_value(comparison.wilcoxon_p), comparison.wilcoxon_p),
        Entry(number(comparison.d_z), comparison.d_z),
        Entry(NONE if seeds is None else f"{seeds:,}", seeds),
    ]


def _power(n: int) -> str:
    """What so many seeds can find at all."""
    told = (
        "Numbers in bold are above 0 by Holm's corrected test at 0.05. d_z is the mean difference in units of its "
        "deviation over the seeds; the seeds for 80 % power take it at its word, which from few seeds is a rough "
        "guess. "
    )
    if n < 2:
        return told + "One seed allows neither interval nor test."
    floor = 2 * 0.5**n
    told += (
        f"A paired t-test of {n} seeds finds a d_z of {detectable(n):.1f} or more in 80 % of all cases, uncorrected. "
    )
    return told + f"Wilcoxon's p cannot be below {floor:.2g} with {n} seeds, however clear the difference."


def _differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(a, b, strict=True)]


def _look(arm: str, looks: Looks) -> Look:
    return REFERENCES.get(arm) or looks[arm]


def _short(comparison: Comparison) -> str:
    ends = "" if comparison.t_interval is None else f" ({interval(comparison.t_interval)})"
    return f"{signed(comparison.difference)}{ends}"
