"""The verdict on each claim: first in the page, in sentences with their numbers, those against it as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coordinator.experiment import show
from coordinator.experiment.power import ALPHA
from coordinator.experiment.report import markup
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.markup import Section, text
from coordinator.experiment.report.words import count, interval, listed, scrub, signed
from coordinator.experiment.results import BEFORE, PIXELS, Results
from coordinator.experiment.statistics import Comparison, sentence
from peers.runs.summary import SELECTIONS, TITLES

PROBES = {"knn": "k-NN", "linear": "linear probe"}
CONTROLS = ("independent", "shuffled", "noise")


def section(experiments: Sequence[ExperimentFolder]) -> Section | None:
    """What was found, for each experiment and probe; None where there is no experiment."""
    if not experiments:
        return None
    parts = []
    for experiment in experiments:
        if len(experiments) > 1:
            parts.append(markup.heading(3, experiment.results.experiment, f"verdict-{experiment.key}"))
        parts.append(_experiment(experiment))
    links = [(f"verdict-{one.key}", one.results.experiment) for one in experiments]
    return Section("verdict", "Verdict", "".join(parts), links if len(links) > 1 else ())


def probe_name(probe: str) -> str:
    """A probe as the page calls it."""
    return PROBES.get(probe, probe)


def headed(probe: str) -> str:
    """A probe at the beginning of a line."""
    return {"linear": "Linear probe"}.get(probe, probe_name(probe))


def called(experiment: ExperimentFolder, arm: str) -> str:
    """An arm in a sentence: whether it is a control follows from its configuration."""
    config = experiment.config(arm)
    control = config.consensus.control != "none" if config else arm in CONTROLS
    if control:
        return f"the {arm} control"
    frozen = config.consensus.target == "frozen" if config else arm == "frozen"
    return f"the {arm} arm (random teachers)" if frozen else f"the {arm} arm"


def outcome(gain: Comparison) -> str:
    """What an arm beside the claim did: gains too, does not, loses, or cannot be tested."""
    if gain.corrected is None:
        return "cannot be tested"
    if gain.corrected < ALPHA:
        return "gains too" if gain.difference > 0 else "loses"
    return "does not gain significantly" if round(gain.difference, 1) else "does not gain"


def _experiment(experiment: ExperimentFolder) -> str:
    results = experiment.results
    cards = "".join(_card(experiment, probe) for probe in results.gains)
    about = (
        f"{count(len(experiment.arms), 'arm')}, {count(len(results.seeds), 'seed')} "
        f"({', '.join(map(str, results.seeds))}), judged on the {results.split} split. The unit is the group: every "
        f"number is a mean over the peers of a group first, and all tests are paired by seed."
    )
    if results.selection != "last":
        about += f" Each peer is judged at its best round by {SELECTIONS.get(results.selection, results.selection)}."
    if results.split == "validation":
        about += " Validation images also choose recipes: what is claimed should be judged on the test split."
    return (
        f"{markup.paragraph(about, 'about')}"
        f'<div class="verdicts">{cards}</div>{_failed(results)}{_skipped(results)}'
        f"{markup.details('Every comparison in words', markup.bullets(show.verdict(results)))}"
    )


def _card(experiment: ExperimentFolder, probe: str) -> str:
    results = experiment.results
    gain = results.gains[probe][results.claim]
    kind = "open" if gain.corrected is None else "won" if show.beats(gain) else "lost"
    badge = {"open": "not tested", "won": "gain", "lost": "no gain"}[kind]
    parts = [
        f'<header><h4>{text(headed(probe))}</h4><span class="badge">{badge}</span></header>',
        f'<p class="headline"><strong>{signed(gain.difference)}</strong> points over the {BEFORE}</p>',
        "" if gain.t_interval is None else f'<p class="range">{text(f"95 % interval {interval(gain.t_interval)}")}</p>',
        f'<p class="lead">{_said(_lead(results, probe), gain)}</p>',
    ]
    for title, kind_, findings in (
        ("The other arms", "", list(_others(experiment, probe))),
        ("What the claim is not shown to beat", "against", list(_failures(experiment, probe))),
    ):
        if findings:
            items = "".join(f"<li>{_said(line, comparison)}</li>" for line, comparison in findings)
            parts.append(f'<h5>{title}</h5><ul class="{kind_}">{items}</ul>')
    return f'<article class="verdict {kind}">{"".join(parts)}</article>'


def _lead(results: Results, probe: str) -> str:
    """The first sentence of the verdict, as in the terminal; another one where there is no test."""
    gain, title = results.gains[probe][results.claim], TITLES[probe]
    if gain.corrected is None:
        return f"{title}: {results.claim} against the {BEFORE}: {sentence(gain)}"
    return next(line for line in show.verdict(results) if line.startswith(f"{title}: "))


def _others(experiment: ExperimentFolder, probe: str) -> Iterator[tuple[str, Comparison]]:
    """Which of the other arms gain as well."""
    for arm, gain in experiment.results.gains[probe].items():
        if arm != experiment.results.claim:
            yield f"{_upper(called(experiment, arm))} {outcome(gain)}: {sentence(gain)}", gain


def _failures(experiment: ExperimentFolder, probe: str) -> Iterator[tuple[str, Comparison]]:
    """Comparisons that the claim did not win."""
    claim = experiment.results.claim
    for arm, comparison in experiment.results.comparisons[probe].items():
        if show.beats(comparison):
            continue
        name = f"the {arm}" if arm == PIXELS else called(experiment, arm)
        if comparison.corrected is None:
            head = f"{claim} cannot be tested against {name}"
        elif comparison.corrected < ALPHA:
            head = f"{_upper(name)} {'are' if arm == PIXELS else 'is'} better than {claim}"
        else:
            head = f"{claim} does not beat {name}"
        yield f"{head}: {sentence(comparison)}", comparison


def _said(line: str, comparison: Comparison) -> str:
    """A sentence as HTML, with what it rests on in smaller letters."""
    numbers = sentence(comparison)
    head, _, tail = line.partition(numbers)
    statement, _, evidence = numbers.partition(" (")
    small = f'<span class="evidence">{text(f"({evidence}")}</span>'
    return f"{text(head)}<strong>{text(statement)}</strong> {small}{text(tail)}"


def _failed(results: Results) -> str:
    """Groups that did not end, by name, with the end of their logs."""
    if not results.failed:
        return ""
    names = list(results.failed)
    head = (
        f"{count(len(names), 'group')} failed and {'is' if len(names) == 1 else 'are'} in no number: {listed(names)}."
    )
    logs = "".join(
        markup.details(f"What became of {name}", markup.code(scrub(why))) for name, why in results.failed.items()
    )
    return f'<div class="warning">{markup.paragraph(head)}{logs}</div>'


def _skipped(results: Results) -> str:
    skips = [f"{arm} {steps:,}" for arm, steps in results.skips.items() if steps]
    return markup.paragraph(f"Steps that peers skipped, over all seeds: {listed(skips)}.", "about") if skips else ""


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]
