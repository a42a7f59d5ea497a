"""An experiment in a terminal: its tables, and the claim's verdict in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from coordinator.experiment.power import ALPHA
from coordinator.experiment.results import BEFORE, PIXELS, ExperimentResults
from coordinator.experiment.statistics import Comparison, Summary, sentence
from peers.runs.summary import SELECTIONS, TITLES


def tables(results: ExperimentResults) -> Iterator[Table]:
    """A table for each probe: every arm's accuracy and gain over the random network."""
    for probe, arms in results.arms.items():
        n = len(results.seeds)
        title = f"{TITLES[probe]}, percent on the {results.split} split, {n} seed{'s' if n > 1 else ''}"
        if results.selection != "last":
            title += f"; each peer at its best round by {SELECTIONS[results.selection]}"
        table = Table(title=title, title_justify="left")
        for name in ("arm", "accuracy", "gain", "95 % interval", "p (Holm)"):
            table.add_column(name, no_wrap=True)
        for arm, summary in arms.items():
            gain = results.gains[probe].get(arm)
            gained = ("", "", "") if gain is None else (f"{gain.difference:+.1f}", _interval(gain.t_interval), _p(gain))
            table.add_row(arm, _accuracy(summary), *gained)
        yield table


def verdict(results: ExperimentResults) -> Iterator[str]:
    """What the numbers say of the claim, a sentence for each comparison; the first is of the claim itself."""
    for probe, gains in results.gains.items():
        gain, others = gains[results.claim], results.comparisons[probe]
        beaten = [arm for arm, comparison in others.items() if arm != PIXELS and beats(comparison)]
        tied = [arm for arm in others if arm != PIXELS and arm not in beaten]
        if gain.p is None:
            yield f"{TITLES[probe]}: {results.claim} against the {BEFORE}, not tested: {sentence(gain)}"
        else:
            says = "beats" if beats(gain) else "does not beat"
            text = f"{TITLES[probe]}: {results.claim} {says} the {BEFORE}: {sentence(gain)}"
            also = f", not {', '.join(tied)}" if tied else ""
            yield f"{text}; it beats {', '.join(beaten) or 'no other arm'}{also}"
        for arm, comparison in others.items():
            yield f"{TITLES[probe]}: {results.claim} against {arm}: {sentence(comparison)}"
        for arm, control in gains.items():
            if arm != results.claim and beats(control):
                yield f"{TITLES[probe]}: {arm} gains too, without the consensus: {sentence(control)}"


def beats(comparison: Comparison) -> bool:
    """Whether a difference is above 0 beyond doubt, by the corrected test."""
    return comparison.corrected is not None and comparison.corrected < ALPHA and comparison.difference > 0


def _accuracy(summary: Summary) -> str:
    return f"{summary.mean:.1f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.1f}")


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}"


def _p(comparison: Comparison) -> str:
    if comparison.corrected is None:
        return ""
    return "< 0.001" if comparison.corrected < 0.001 else f"{comparison.corrected:.3f}"
