"""`analyse`: measures a finished run, and leaves analysis.json and pictures in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coordinator.experiment.analysis import pictures
from coordinator.experiment.analysis.course import Moment, means, measure
from coordinator.experiment.analysis.embedding import aligned, embed
from coordinator.experiment.analysis.past import Past
from coordinator.experiment.analysis.probed import Close, Images, Lens, raw
from coordinator.experiment.analysis.transfer import Transfer
from peers.common.errors import DivergedError, RunFolderError
from peers.common.files import write_atomically
from peers.config.schema import Config, DataConfig
from peers.probes.features import NotFiniteError
from peers.runs.run_folder import RunFolder, run_name

SCHEMA = 1
FOLDER = "analysis"
QUERIES, NEIGHBOURS = 8, 5

CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "stl10": "airplane bird car cat deer dog horse monkey ship truck",
    "fashion_mnist": "T-shirt trouser pullover dress coat sandal shirt sneaker bag boot",
}
"""Names of classes, in order; those of other data sets are numbers."""


def analyse(config: Config, transfer: DataConfig | None = None) -> Path:
    """Measure what the networks of a finished run have learned.

    The same run gives the same bytes, on the same machine and number of threads.

    Args:
        config: of the run, as its config.yaml has it.
        transfer: a data set that its features are probed on, too.

    Returns:
        path of analysis.json in the run's folder; pictures lie beside it, in `analysis`.

    Raises:
        RunFolderError: the run has not ended, kept no weights, or its folder cannot be written.
        DivergedError: features are not finite.
        PeersError: images or weights are not what they were.
    """
    past = Past(config)
    elsewhere = None if transfer is None else Transfer(past, transfer)
    try:
        found, shown = _measured(past)
    except NotFiniteError as exc:
        raise DivergedError(f"{past.grounds.folder.path} cannot be analysed: {exc}") from exc
    found["transfer"] = None if elsewhere is None else elsewhere.result()
    names = {name: f"{FOLDER}/{name}.png" for name in shown}
    filters = [names[name] for name in ("filters-before", "filters-after") if name in names]
    found["pictures"] = {"filters": filters or None, "neighbours": names["neighbours"]}
    return _write(past.grounds.folder, found, {names[name]: data for name, data in shown.items()})


@dataclass
class _End:
    """What is kept of the first and of the last round.

    Attributes:
        looks: a close look at each peer.
        outputs: of the first peer, for the validation, training and judged images.
        network: of the first peer.
    """

    looks: list[Close]
    outputs: tuple[Tensor, Tensor, Tensor]
    network: nn.Module


def _measured(past: Past) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Everything but what concerns another data set: values for analysis.json, and pictures by name."""
    images = Images.of(past.config, past.grounds.data)
    lens = Lens(past.config, images, past.device)
    initial: list[Tensor] = []
    moments, ends = [], []
    for round_ in past.rounds:
        outputs, looks, first = [], [], None
        for peer in past.peers:
            network = past.network(peer, round_)
            outputs.append(lens.outputs(network))
            if round_ not in (past.rounds[0], past.rounds[-1]):
                continue
            look, train, judged = lens.look(past.config.network_of(peer), network, outputs[-1])
            looks.append(look)
            first = first or _End(looks, (outputs[0], train, judged), network)
        initial = initial or outputs
        moments.append(measure(outputs, initial))
        ends += [first] if first else []
    before, after = ends
    values = {
        **_about(past, images),
        **_course(moments),
        **_looks(before.looks, after.looks),
        "classes": {"names": _class_names(past), "knn": [_mean(end.looks, "classes") for end in ends]},
        "embedding": _embedding(images, before.outputs[2], after.outputs[2]),
    }
    return values, _pictures(images, before, after)


def _about(past: Past, images: Images) -> dict[str, Any]:
    seed = past.config.run.seed
    return {
        "schema": SCHEMA,
        "arm": run_name(past.config).removesuffix(f"-seed{seed}"),
        "seed": seed,
        "peers": len(past.peers),
        "split": past.config.probe.split,
        "rounds": list(past.rounds),
        "images": len(images.course),
    }


def _course(moments: Sequence[Moment]) -> dict[str, Any]:
    names = moments[0].values
    return {
        "course": {name: [moment.values[name] for moment in moments] for name in names},
        "spectrum": [moment.spectrum for moment in moments],
    }


def _looks(before: Sequence[Close], after: Sequence[Close]) -> dict[str, Any]:
    """Means over the peers; of the stages over those that have the first one's."""
    ends = (before, after)
    stages, groups, detail = (list(found) for found in (before[0].stages, before[0].groups, before[0].detail))
    alike = [[look for look in end if list(look.stages) == stages] for end in ends]
    return {
        "stages": {"names": stages, "knn": [_mean(end, "stages") for end in alike]},
        "content": {
            "names": groups,
            "explained": [_mean(end, "groups") for end in ends],
            "detail": {"names": detail, "explained": [_mean(end, "detail") for end in ends]},
        },
    }


def _mean(looks: Sequence[Close], what: str) -> list[float]:
    """The mean over the peers of one part of their looks."""
    rows = [getattr(look, what) for look in looks]
    return means(list(row.values()) if isinstance(row, dict) else row for row in rows)


def _class_names(past: Past) -> list[str]:
    known = CLASSES.get(past.config.data.name)
    return known.split() if known else [str(label) for label in range(past.grounds.data.classes)]


def _embedding(images: Images, before: Tensor, after: Tensor) -> dict[str, Any]:
    """The first peer's features of judged images; how they end is turned to how they began."""
    began, ended = (embed(z[torch.from_numpy(images.embedded)]) for z in (before, after))
    ended = aligned(ended, began)
    labels = images.judged.labels[torch.from_numpy(images.test[images.embedded])]
    return {"labels": labels.tolist(), "before": began.round(3).tolist(), "after": ended.round(3).tolist()}


def _pictures(images: Images, before: _End, after: _End) -> dict[str, bytes]:
    """PNGs by name, of the first peer."""
    data = images.data
    filters = [pictures.first_filters(end.network, data.shape) for end in (before, after)]
    shown = {
        f"filters-{when}": pictures.filter_grid(weights)
        for when, weights in zip(("before", "after"), filters, strict=True)
        if weights is not None
    }
    labels = data.validation.labels[torch.from_numpy(images.course)]
    queries = _one_of_each(labels.tolist(), QUERIES)
    findings = []
    for outputs, train, _ in (before.outputs, after.outputs):
        near = pictures.nearest(train, outputs[queries], NEIGHBOURS)
        rows = torch.from_numpy(images.train)[near]
        found = raw(data, data.train.batch(rows.flatten())).view(*near.shape, *data.shape)
        findings.append((found, data.train.labels[rows] == labels[queries, None]))
    asked = raw(data, data.validation.batch(images.course[queries]))
    return {**shown, "neighbours": pictures.neighbour_grid(asked, findings)}


def _one_of_each(labels: Sequence[int], most: int) -> list[int]:
    """Places of at most so many images: the first of each class, in the order of the classes, then any others."""
    firsts = [labels.index(label) for label in sorted(set(labels))]
    others = [place for place in range(len(labels)) if place not in firsts]
    return [*firsts, *others][:most]


def _write(folder: RunFolder, found: Mapping[str, Any], shown: Mapping[str, bytes]) -> Path:
    path = folder.analysis
    try:
        (folder.path / FOLDER).mkdir(exist_ok=True)
        for name, data in shown.items():
            write_atomically(folder.path / name, data)
        text = json.dumps(_plain(found), ensure_ascii=False, allow_nan=False)
        write_atomically(path, f"{text}\n".encode())  # last: it names the pictures
    except OSError as exc:
        raise RunFolderError(f"cannot write the analysis of {folder.path}: {exc}") from exc
    return path


def _plain(value: Any) -> Any:
    """Values for JSON: six digits are more than any of them is good for; null where not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
