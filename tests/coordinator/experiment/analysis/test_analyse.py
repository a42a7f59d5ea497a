"""The analysis as a whole, on runs that were made up: what is measured, of which networks, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes

from coordinator.experiment.analysis import pictures, probed
from coordinator.experiment.analysis.content import Explained
from coordinator.experiment.analysis.course import measure
from coordinator.experiment.analysis.past import Past
from coordinator.experiment.analysis.probed import Images, attributes_of, raw
from coordinator.experiment.analysis.run import analyse
from peers.common.errors import CheckpointError, DivergedError, RunFolderError
from peers.data.batches import Split, open_data
from peers.probes.features import extract, with_norm_statistics
from peers.probes.knn import knn_accuracy
from peers.runs import snapshots
from tests.coordinator.experiment.analysis.finished import config_of, disturbed, end

CPU = torch.device("cpu")


def read(path: Path) -> dict[str, Any]:
    """An analysis; nothing in it may be NaN or Infinity."""
    return dict(json.loads(path.read_bytes(), parse_constant=lambda name: pytest.fail(f"{name} in {path}")))


def test_the_course_is_that_of_the_snapshots(tmp_path: Path) -> None:
    """Measures of the very networks that were kept, on the validation images, with norm statistics re-estimated."""
    config = config_of(tmp_path)
    end(config, {0: [4, 9], 1: [4, 9]})
    found = read(analyse(config))
    data = open_data(config.data, 3, CPU)
    outputs = [
        [
            extract(with_norm_statistics(disturbed(config, peer, round_), data.train, 4096, 3), data.validation, CPU)
            for peer in (0, 1)
        ]
        for round_ in (0, 4, 9)
    ]
    assert (found["rounds"], found["images"], found["arm"], found["seed"]) == ([0, 4, 9], 20, "made-up", 3)
    moments = [measure(each, outputs[0]) for each in outputs]
    for name, values in found["course"].items():
        assert values == pytest.approx([moment.values[name] for moment in moments], rel=1e-4), name
    assert found["course"]["cka_initial"][0] == 1
    assert found["course"]["cka_initial"][2] < 0.999
    for row, moment in zip(found["spectrum"], moments, strict=True):
        assert row == pytest.approx(moment.spectrum, rel=1e-3, abs=1e-5)


def test_stages_classes_and_content_are_means_over_the_peers(tmp_path: Path) -> None:
    """Stages by k-NN on the judged images, classes that add up to it, attributes that explain their share."""
    config = config_of(tmp_path)
    end(config, {0: [9], 1: [9]})
    found = read(analyse(config))
    data = open_data(config.data, 3, CPU)
    options = {"k": 5, "temperature": 0.07, "classes": 10}
    for place, round_ in enumerate((0, 9)):
        twins = [with_norm_statistics(disturbed(config, peer, round_), data.train, 4096, 3) for peer in (0, 1)]
        for stage, last in enumerate((4, 7)):
            parts = [[extract(twin[:last], split, CPU) for split in (data.train, data.test)] for twin in twins]
            accuracies = [knn_accuracy(x, data.train.labels, y, data.test.labels, **options) for x, y in parts]
            assert found["stages"]["knn"][place][stage] == pytest.approx(sum(accuracies) / 2, rel=1e-5)
        count = torch.bincount(data.test.labels, minlength=10).double()
        total = float((torch.tensor(found["classes"]["knn"][place]).double() * count).sum() / count.sum())
        assert total == pytest.approx(found["stages"]["knn"][place][-1], abs=1e-3)
    assert found["stages"]["names"] == ["layer 1", "layer 2"]
    assert found["classes"]["names"] == [str(label) for label in range(10)]
    content = found["content"]
    assert content["names"] == ["luminance", "colour", "contrast", "edges", "all"]
    fitted, judged = (attributes_of(data, split, np.arange(len(split))) for split in (data.train, data.validation))
    assert content["detail"]["names"] == list(fitted.names)
    for place, round_ in enumerate((0, 9)):
        twins = [with_norm_statistics(disturbed(config, peer, round_), data.train, 4096, 3) for peer in (0, 1)]
        explained = [
            Explained(
                (fitted.values, extract(twin, data.train, CPU)), (judged.values, extract(twin, data.validation, CPU))
            )
            for twin in twins
        ]
        for name, columns in fitted.groups.items():
            share = content["explained"][place][content["names"].index(name)]
            assert share == pytest.approx(sum(each.by(columns) for each in explained) / 2, rel=1e-4), name
        for column, share in enumerate(content["detail"]["explained"][place]):
            assert share == pytest.approx(sum(each.by([column]) for each in explained) / 2, rel=1e-4)


def test_pictures_and_the_embedding_are_of_the_first_peer(tmp_path: Path) -> None:
    """All PNGs that are named are there; places and labels are those of the judged images."""
    config = config_of(tmp_path)
    folder = end(config, {0: [9], 1: [9]})
    found = read(analyse(config))
    names = [*found["pictures"]["filters"], found["pictures"]["neighbours"]]
    assert names == [f"analysis/{name}.png" for name in ("filters-before", "filters-after", "neighbours")]
    pixels = []
    for name in names:
        with Image.open(folder.path / name) as image:
            image.load()
            pixels.append(image.tobytes())
    assert pixels[0] != pixels[1]
    embedding = found["embedding"]
    assert embedding["labels"] == open_data(config.data, 3, CPU).test.labels.tolist()
    for when in ("before", "after"):
        points = torch.tensor(embedding[when])
        assert points.shape == (50, 2)
        assert all(round(value, 3) == value for point in embedding[when] for value in point)
    after, before = (np.array(embedding[when]) for when in ("after", "before"))
    turn, _ = orthogonal_procrustes(after - after.mean(0), before - before.mean(0))
    assert turn == pytest.approx(np.eye(2), abs=1e-3)  # as close as turning can bring it
    assert found["transfer"] is None
    assert sorted(path.name for path in folder.path.glob("analysis*")) == ["analysis", "analysis.json"]


def test_neighbours_are_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among those that were drawn, by the features of before and of after; queries are of different classes."""
    shown: list[Any] = []
    monkeypatch.setattr(probed, "PROBE_IMAGES", 60)
    monkeypatch.setattr(pictures, "neighbour_grid", lambda *parts: shown.extend(parts) or b"")
    config = config_of(tmp_path)
    end(config, {0: [9], 1: [9]})
    analyse(config)
    queries, findings = shown
    data = open_data(config.data, 3, CPU)
    images = Images.of(config, data)
    pool, asked = (raw(data, split.batch(range(len(split)))) for split in (data.train, data.validation))
    places = [int((asked - query).abs().sum((1, 2, 3)).argmin()) for query in queries]
    labels = data.validation.labels[places]
    assert len(queries) == len(set(labels.tolist())) == 8
    for round_, (found, same) in zip((0, 9), findings, strict=True):
        twin = with_norm_statistics(disturbed(config, 0, round_), data.train, 4096, 3)
        z = extract(twin, data.train, CPU, indices=images.train)
        near = pictures.nearest(z, extract(twin, data.validation, CPU)[places], 5)
        chosen = torch.from_numpy(images.train)[near]
        assert torch.allclose(found, pool[chosen], atol=1e-6)
        assert torch.equal(same, data.train.labels[chosen] == labels[:, None])
    assert not torch.equal(findings[0][0], findings[1][0])


def test_rounds_that_not_all_peers_have_are_left_out(tmp_path: Path) -> None:
    """So are those behind the end: they belong to another past."""
    config = config_of(tmp_path)
    end(config, {0: [1, 4, 9, 20], 1: [1, 5, 9, 20]})
    assert Past(config).rounds == (0, 1, 9)


def test_the_incarnation_counts(tmp_path: Path) -> None:
    """A peer that began anew is compared with the network that it then was."""
    config = config_of(tmp_path)
    end(config, {0: [9], 1: [9]}, incarnation=2)
    found = Past(config).weights(1, 0).state_dict()
    expected, other = (disturbed(config, 1, 0, incarnation).state_dict() for incarnation in (2, 0))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["1.weight"], other["1.weight"])


def test_peers_of_other_architectures(tmp_path: Path) -> None:
    """Everything is a mean over all peers, but the stages: over those that have the first one's."""
    network = [{"name": "convnet", "depth": 1, "width": 6}, {"depth": 2, "width": 6}]
    config = config_of(tmp_path, network=network, group={"peers": 3})
    end(config, {peer: [9] for peer in range(3)})
    found = read(analyse(config))
    assert found["stages"]["names"] == ["block 1"]
    assert (found["peers"], len(found["course"]["cka_peers"])) == (3, 2)
    assert found["pictures"]["filters"] is not None


def test_a_lone_peer_and_channels_that_make_no_picture(tmp_path: Path) -> None:
    """What takes two peers is null; two channels have no filters to show."""
    config = config_of(
        tmp_path,
        group={"peers": 1},
        consensus={"control": "independent"},
        data={"channels": 2},
        probe={"linear": False},
    )
    end(config, {0: [9]})
    found = read(analyse(config))
    assert found["course"]["disagreement"] == [None, None]
    assert found["course"]["cka_peers"] == found["course"]["alignment"] == [None, None]
    assert found["pictures"]["filters"] is None
    assert found["course"]["effective_rank"][0] > 1


def test_a_handful_of_images(tmp_path: Path) -> None:
    """Two validation images, judged at that: a file comes of it all the same."""
    config = config_of(tmp_path, data={"images": 16, "batch": 4}, probe={"split": "validation"})
    end(config, {0: [9], 1: [9]})
    found = read(analyse(config))
    assert (found["images"], found["embedding"]["after"]) == (2, [[0, 0], [0, 0]])
    assert found["classes"]["knn"][0].count(None) >= 8  # classes without an image


def test_on_validation_the_test_images_stay_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """probe.split=validation: judged images are the validation images, and no others are read."""
    read_images = Split.stream

    def stream(self: Split, batches: Any) -> Any:
        assert len(self) != 50, "test images were read"
        return read_images(self, batches)

    monkeypatch.setattr(Split, "stream", stream)
    config = config_of(tmp_path, probe={"split": "validation"})
    end(config, {0: [9], 1: [9]})
    found = read(analyse(config))
    assert found["split"] == "validation"
    assert found["embedding"]["labels"] == open_data(config.data, 3, CPU).validation.labels.tolist()


def test_images_are_drawn_by_seed_within_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many of each, ascending, the same again; training images are those of the run's own probes."""
    for name, most in (("COURSE_IMAGES", 12), ("PROBE_IMAGES", 30), ("EMBEDDED", 7)):
        monkeypatch.setattr(probed, name, most)
    config = config_of(tmp_path)
    data = open_data(config.data, 3, CPU)
    images, again = (Images.of(config, data) for _ in range(2))
    for drawn, same, size, most in (
        (images.course, again.course, 20, 12),
        (images.train, again.train, 180, 30),
        (images.test, again.test, 50, 30),
        (images.embedded, again.embedded, 30, 7),
    ):
        assert drawn.tolist() == same.tolist() == sorted(set(drawn.tolist()))
        assert len(drawn) == most
        assert drawn.max() < size
        assert drawn.max() > most  # not the first ones
    few = config_of(tmp_path, probe={"train_images": 20})
    assert len(Images.of(few, data).train) == 20
    assert len(Images.of(config_of(tmp_path, probe={"knn_k": 40}), data).train) == 40


def test_attributes_are_of_the_images_as_they_were(tmp_path: Path) -> None:
    """In 0..1: luminance of the bytes, whatever normalization did to them."""
    data = open_data(config_of(tmp_path).data, 3, CPU)
    images = raw(data, data.train.batch([3, 1]))
    assert 0 <= float(images.min()) < 0.2
    assert 0.8 < float(images.max()) <= 1
    assert torch.allclose(images * 255, (images * 255).round(), atol=1e-3)
    found = attributes_of(data, data.train, torch.tensor([3, 1]).numpy())
    expected = (images * torch.tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)).sum(1).mean((1, 2))
    assert found.values[:, 0].tolist() == pytest.approx(expected.tolist())


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    """No summary: the error says what to do; nothing is written."""
    config = config_of(tmp_path)
    folder = end(config, {0: [9], 1: [9]})
    folder.summary.unlink()
    with pytest.raises(RunFolderError, match=r"has no summary.json: .* finish it with --resume auto"):
        analyse(config)
    assert not list(folder.path.glob("analysis*"))


def test_a_run_that_kept_no_weights_is_refused(tmp_path: Path) -> None:
    """Neither snapshots that all peers have nor a checkpoint of the last round."""
    config = config_of(tmp_path)
    end(config, {0: [9], 1: [4]})
    with pytest.raises(RunFolderError, match=r"has no weights to look at: .* last round \(9\); run it again"):
        analyse(config)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the way of the pictures is an error for the user."""
    config = config_of(tmp_path)
    folder = end(config, {0: [9], 1: [9]})
    (folder.path / "analysis").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot write the analysis"):
        analyse(config)


def test_damaged_and_broken_weights_are_named(tmp_path: Path) -> None:
    """A file that is none, and features that are not finite."""
    config = config_of(tmp_path)
    folder = end(config, {0: [9], 1: [9]})
    (folder.snapshots(1) / "round-00000009.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="round-00000009"):
        analyse(config)
    broken = disturbed(config, 1, 9)
    next(broken.parameters()).data.fill_(math.nan)
    snapshots.save(folder, 1, 9, broken)
    with pytest.raises(DivergedError, match=r"cannot be analysed: .* not finite"):
        analyse(config)
