"""What the networks have learned, as far as it was analysed: courses, spectra, stages, content, classes, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from coordinator.experiment.report import inside, markup
from coordinator.experiment.report.analysed import Analysed, analysed
from coordinator.experiment.report.curves import lines
from coordinator.experiment.report.figure import Panel
from coordinator.experiment.report.load import ExperimentFolder
from coordinator.experiment.report.markup import Column, Entry, Section
from coordinator.experiment.report.palette import RANDOM, RAW, Look, classes
from coordinator.experiment.report.verdict import probe_name
from coordinator.experiment.report.words import MINUS, NONE, count, deviation_of, listed, mean_of, signed, spread
from coordinator.experiment.results import BEFORE, PIXELS

Looks = Mapping[str, Look]
Piece = tuple[str, list[Panel]]
"""HTML, and the panels that were drawn for it."""

COURSES = {
    "effective_rank": "effective rank",
    "disagreement": f"disagreement: 1 {MINUS} cos to the others' mean",
    "cka_peers": "linear CKA between peers",
    "cka_initial": "linear CKA to the own initialization",
    "alignment": "alignment loss",
    "uniformity": "uniformity loss",
}


def section(experiments: Sequence[ExperimentFolder], looks: Looks) -> Section | None:
    """The analyses of all experiments; None where nothing was analysed."""
    parts, panels, links = [], [], []
    for experiment in experiments:
        arms = analysed(experiment)
        if not arms:
            continue
        if len(experiments) > 1:
            links.append((f"analysis-{experiment.key}", experiment.results.experiment))
            parts.append(markup.heading(3, experiment.results.experiment, links[-1][0]))
        parts.append(markup.paragraph(_about(arms, experiment.results.selection), "about"))
        for part in PARTS:
            for html, drawn in part(experiment.key, arms, looks):
                parts.append(html)
                panels += drawn
    return Section("analysis", "What the networks have learned", "".join(parts), links, panels) if parts else None


def _about(arms: Sequence[Analysed], selection: str) -> str:
    told = [
        f"{one.arm} ({count(len(one.groups), 'seed')}, {count(one.first.get('peers', 0), 'peer')} each)" for one in arms
    ]
    rounds = arms[0].first.get("rounds") or []
    text = f"Analysed: {listed(told)}. Values are means over the peers of a group, then over seeds."
    if rounds:
        text += f" “Before” is the initial network, “after” that of round {rounds[-1]}."
        if selection != "last":
            text += " The probes above judge each peer's selected round instead."
    return text


def _courses(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    panels = []
    for name, title in COURSES.items():
        found = {one.arm: course for one in arms if (course := one.course(name)) is not None}
        if found:
            rounds = arms[0].first["rounds"]
            panels.append(lines(f"analysis-{key}-{name.replace('_', '-')}", title, found, looks, rounds=rounds))
    if panels:
        images = arms[0].first.get("images")
        where = f" on {images:,} validation images" if images else ""
        yield (
            markup.heading(4, "Course of the features")
            + markup.figure(
                panels,
                f"Measured{where} at the rounds marked, {_seeds(arms)}; band: ± one standard deviation over the seeds. "
                f"Alignment and uniformity as Wang & Isola (2020), each better when it is lower, where a positive pair "
                f"is two peers' outputs for one image; collapse lowers the first and raises the second. An effective "
                f"rank that falls far is collapse.",
                [looks[one.arm] for one in arms],
            ),
            panels,
        )


def _within(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    """Spectrum and stages, side by side."""
    parts, panels, legend = [], [], _legend(arms, looks)
    rows = _before_and_after(arms, looks, ("spectrum", 0), ("spectrum", -1))
    if rows:
        panels.append(inside.spectrum(f"analysis-{key}-spectrum", rows))
        caption = (
            f"Singular values of the centred features over the largest, {_seeds(arms)}; band: ± one standard "
            f"deviation. The faster they fall, the fewer directions the features use. Grey: before training."
        )
        parts.append(markup.heading(4, "Spectrum") + markup.figure(panels[-1:], caption, legend))
    names = arms[0].names("stages")
    rows = _before_and_after(arms, looks, ("stages", "knn", 0), ("stages", "knn", -1))
    if rows and names:
        panels.append(inside.along(f"analysis-{key}-stages", "k-NN of each stage's features, %", names, rows))
        caption = (
            f"k-NN accuracy of the pooled features of each stage of the network, {_seeds(arms)}; bars: ± one standard "
            f"deviation over the seeds. Grey: before training."
        )
        parts.append(markup.heading(4, "Stages of the network") + markup.figure(panels[-1:], caption, legend))
    if parts:
        yield markup.beside(*parts), panels


def _content(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    panels = []
    names = arms[0].names("content")
    groups = _before_and_after(arms, looks, ("content", "explained", 0), ("content", "explained", -1))
    if names and groups:
        title = "share of the variance explained (R²)"
        panels.append(inside.columns(f"analysis-{key}-content", title, names, groups))
    details = arms[0].names("content", "detail")
    single = _before_and_after(
        arms, looks, ("content", "detail", "explained", 0), ("content", "detail", "explained", -1)
    )
    if details and single:
        title = "… by each attribute alone (R²)"
        panels.append(inside.rows(f"analysis-{key}-content-detail", title, details, single, share=True))
    if panels:
        caption = (
            f"Share of the features' variance that plain attributes of an image explain, as R² of a ridge regression "
            f"on held-out images, {_seeds(arms)}. Grey: before training. What no attribute explains is not thereby "
            f"semantic."
        )
        yield markup.heading(4, "Content") + markup.figure(panels, caption, _legend(arms, looks)), panels


def _classes(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    names = arms[0].names("classes")
    gained = [(looks[one.arm], gains) for one in arms if len(gains := one.class_gains()) == len(names)]
    if not names or not gained:
        return
    panels = [inside.gains(f"analysis-{key}-classes", "k-NN gain of each class, points", names, gained)]
    rows = _before_and_after(arms, looks, ("classes", "knn", 0), ("classes", "knn", -1))
    title = "k-NN accuracy of each class, %"
    panels.append(inside.rows(f"analysis-{key}-classes-accuracy", title, names, rows, share=False))
    caption = (
        f"First: k-NN accuracy after training minus before, within each class of the {arms[0].first.get('split')} "
        f"split, {_seeds(arms)}; bars: 95 % interval by Student's t over the seeds, uncorrected. Then the accuracies; "
        f"grey: before training."
    )
    yield markup.heading(4, "Classes") + markup.figure(panels, caption, _legend(arms, looks)), panels


def _embedding(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    shown = [one for one in arms if (one.first.get("embedding") or {}).get("labels")]
    if not shown:
        return
    first = shown[0].first["embedding"]
    labels = [int(label) for label in first["labels"]]
    names = shown[0].names("classes")
    kinds = [
        replace(look, dash="none", number=None)  # a class has nothing to do with the arm of its colour
        for look in classes([names[label] if label < len(names) else str(label) for label in range(max(labels) + 1)])
    ]
    name = f"analysis-{key}-embedding"
    panels = [inside.embedding(f"{name}-before", "before training", first["before"], labels, kinds)]
    for one in shown:
        own = one.first["embedding"]
        title = f"{one.arm}, after training"
        panels.append(inside.embedding(f"{name}-{one.arm}", title, own["after"], own["labels"], kinds))
    caption = (
        f"t-SNE of {count(len(labels), 'image')} by the features of peer 0, seed {shown[0].groups[0].seed}; colour and "
        f"marker: class, which training never saw. One network each: an impression, not a measurement."
    )
    yield markup.heading(4, "Embedding") + markup.figure(panels, caption, kinds), panels


def _pictures(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    filters = [(one, found) for one in arms if (found := one.filters()) is not None]
    if filters:
        one, (before, _) = filters[0]
        shown = [("before training", before), *((f"{one.arm}, after training", after) for one, (_, after) in filters)]
        caption = f"Filters of the first layer of peer 0, seed {one.groups[0].seed}, each scaled by its largest weight."
        yield markup.heading(4, "Filters") + markup.pictures(shown, caption, "small"), []
    near = [(one, uri) for one in arms if (uri := one.neighbours()) is not None]
    if near:
        caption = (
            f"Peer 0, seed {near[0][0].groups[0].seed}. Leftmost: validation images; then the training images whose "
            f"features are nearest, before training and, behind the gap, after it. Frames: blue for the same class, "
            f"orange for another."
        )
        shown = [(f"nearest neighbours, {one.arm}", uri) for one, uri in near]
        yield markup.heading(4, "Neighbours") + markup.pictures(shown, caption), []


def _transfer(key: str, arms: Sequence[Analysed], looks: Looks) -> Iterator[Piece]:
    found = [(one, one.transfers()) for one in arms]
    found = [(one, transfers) for one, transfers in found if transfers]
    if not found:
        return
    probes = list(found[0][1][0]["before"])
    columns = [Column("features", numeric=False)]
    for probe in probes:
        columns += [Column(f"{probe_name(probe)}, %"), Column("gain")]
    one, transfers = found[0]
    rows = [[Entry(BEFORE, look=RANDOM), *_scores(transfers, "before", probes, None)]]
    for one, transfers in found:
        rows.append([Entry(one.arm, look=looks[one.arm]), *_scores(transfers, "after", probes, "before")])
    rows.append([Entry(PIXELS, look=RAW), *_scores(found[0][1], "pixels", probes, None)])
    data = found[0][1][0].get("data", "another data set")
    caption = f"Probes of the same networks on {data}, which they never saw: mean ± deviation, {_seeds(arms)}"
    yield markup.heading(4, f"Transfer to {data}") + markup.table(caption, columns, rows), []


def _scores(
    transfers: Sequence[Mapping[str, Mapping[str, float]]], when: str, probes: Sequence[str], since: str | None
) -> list[Entry]:
    entries = []
    for probe in probes:
        values = [found[when][probe] for found in transfers if probe in (found.get(when) or {})]
        mean = mean_of(values)
        entries.append(Entry(spread(mean, deviation_of(values)), mean))
        if since is None:
            entries.append(Entry(NONE))
            continue
        gain = mean_of(
            found[when][probe] - found[since][probe] for found in transfers if probe in (found.get(when) or {})
        )
        entries.append(Entry(signed(gain), gain))
    return entries


def _before_and_after(
    arms: Sequence[Analysed], looks: Looks, before: tuple[str | int, ...], after: tuple[str | int, ...]
) -> list[inside.Row]:
    """The first arm's row before training, in grey: all arms of a seed begin alike; then each arm's after it."""
    rows = []
    first = arms[0].row(*before)
    if first is not None:
        rows.append((RANDOM, first))
    for one in arms:
        row = one.row(*after)
        if row is not None:
            rows.append((looks[one.arm], row))
    return rows


def _legend(arms: Sequence[Analysed], looks: Looks) -> list[Look]:
    return [RANDOM, *(looks[one.arm] for one in arms)]


def _seeds(arms: Sequence[Analysed]) -> str:
    numbers = sorted({len(one.groups) for one in arms})
    return count(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"


PARTS: tuple[Callable[[str, Sequence[Analysed], Looks], Iterator[Piece]], ...] = (
    _courses,
    _within,
    _content,
    _classes,
    _embedding,
    _pictures,
    _transfer,
)
"""In the order of the page."""
