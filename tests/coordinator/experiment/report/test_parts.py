"""The parts of a report: what is read, what is refused, numbers, courses, colours, and files that repeat it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from coordinator import cli
from coordinator.experiment import matrix
from coordinator.experiment.report import command, load, palette, settings, words
from coordinator.experiment.report.curve import MOST, of_records, over_groups, thinned
from coordinator.experiment.results import ExperimentResults
from peers.common.errors import RunFolderError
from peers.config.loading import dump
from tests.coordinator.experiment.report import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment without metrics."""
    return made.experiment(tmp_path_factory.mktemp("parts"), metrics=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with nothing but its results."""
    return made.experiment(tmp_path_factory.mktemp("plain"), metrics=False, analysis=False)


def test_results_come_back_as_they_were(folder: Path) -> None:
    """Dataclasses with tuples, not dicts with lists."""
    results = load.results_of(folder)
    assert isinstance(results, ExperimentResults)
    gain = results.gains["knn"]["consensus"]
    assert isinstance(gain.t_interval, tuple)
    assert results.seeds == (0, 1, 2, 3, 4)
    assert gain.difference == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("missing", "is not there: expected the folder of an experiment"),
        ("empty", "holds neither results.json nor sweep.json"),
        ("experiment", "run `coordinator experiment CONFIG` to its end first"),
        ("sweep", "run `coordinator sweep CONFIG` to its end first"),
        ("damaged", "results.json is damaged: expected a JSON object, found "),
        ("foreign", "results.json is not what `coordinator experiment` writes"),
        ("file", "is not a folder"),
    ],
)
def test_a_folder_without_results_is_refused(
    left: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a text that says what was found, what was expected, and what to do."""
    path = tmp_path / "it"
    if left == "file":
        path.write_text("")
    elif left != "missing":
        path.mkdir()
    if left in ("experiment", "sweep"):
        (path / "cells" / ("p000-seed1" if left == "sweep" else "consensus-seed1")).mkdir(parents=True)
    if left in ("damaged", "foreign"):
        (path / "results.json").write_text('{"experiment": ' if left == "damaged" else '{"experiment": "x"}')
    assert cli.main(["report", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not (path / "report.html").exists()


def test_a_damaged_sweep_is_refused(tmp_path: Path) -> None:
    """Named, with what to do."""
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "x", "points": [{}]}))
    with pytest.raises(RunFolderError, match=r"sweep\.json and results\.csv are not what `coordinator sweep` writes"):
        load.load([tmp_path])


def test_an_unwritable_place_is_said(folder: Path, tmp_path: Path) -> None:
    """The text names the folder and the flag."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="choose another folder with --out DIR"):
        command.write_report([folder], tmp_path / "taken")


def test_the_command_says_where_the_page_is(plain: Path) -> None:
    """By default in the first folder."""
    console = Console(file=io.StringIO(), highlight=False, markup=False)
    assert command.report([str(plain)], None, console=console) == 0
    assert str(plain / "report.html") in console.file.getvalue()  # type: ignore[attr-defined]
    assert (plain / "report.html").is_file()


def test_the_file_in_the_appendix_repeats_the_experiment(folder: Path, tmp_path: Path) -> None:
    """Run from it, every group has the configuration that it had, but for where it is kept."""
    experiment = load.load([folder]).experiments[0]
    text = settings.experiment_file(experiment)
    assert text is not None
    source = tmp_path / "again.yaml"
    source.write_text(text)
    again = matrix.load(str(source), [f"experiment.out={folder.parent}"])
    for cell in again.cells:
        assert dump(cell.config) == (cell.folder.path / "config.yaml").read_text()
    assert {cell.name for cell in again.cells if cell.analysed} == {f"consensus seed {seed}" for seed in made.SEEDS}


def test_the_file_in_the_appendix_repeats_a_sweep(tmp_path: Path) -> None:
    """The same axes, seeds and common settings."""
    found = load.load([made.sweep(tmp_path)]).sweeps[0]
    text = settings.sweep_file(found)
    assert text is not None
    assert "optimizer.learning_rate: [0.0001, 0.001, 0.003, 0.03]" in text
    assert "probe: {split: validation}" in text
    assert "optimizer:" not in text.replace("optimizer.", "")


def test_a_sweep_of_words_of_which_nothing_is_finished(tmp_path: Path) -> None:
    """No figure, no best point; its points are in the table, and their settings are text."""
    about = {"name": "x", "method": "grid", "split": "validation", "seeds": [1], "metric": "linear"}
    about["space"] = {"consensus.loss": {"values": ["<mse>", None]}, "data.list": {"values": [[1, 2]]}}
    points = [{"consensus.loss": loss, "data.list": [1, 2]} for loss in ("<mse>", None)]
    about["points"] = [
        {"name": f"p{place:03d}", "values": values, "state": "failed", "why": "not run"}
        for place, values in enumerate(points)
    ]
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    html = command.write_report([tmp_path], tmp_path).read_text()
    assert html.count('<p class="warning">') == 2
    assert "p001 (consensus.loss = null, data.list = [1, 2])" in html
    assert "<td>&lt;mse&gt;</td>" in html
    assert "<mse>" not in html
    assert "<figure>" not in html


def test_too_few_seeds_are_not_called_a_failure(folder: Path, tmp_path: Path) -> None:
    """Without a p-value the page says that nothing was tested, not that the claim does not hold."""
    tree = json.loads((folder / "results.json").read_text())
    for part in ("gains", "comparisons"):
        for arms in tree[part].values():
            for one in arms.values():
                one.update(p=None, corrected=None, wilcoxon_p=None, why_no_p="a test takes at least 5 seeds, found 2")
    (tmp_path / "results.json").write_text(json.dumps(tree))
    html = command.write_report([tmp_path], tmp_path).read_text()
    assert html.count('<article class="verdict open">') == len(made.GAINS)
    assert 'class="verdict lost"' not in html
    assert 'class="verdict won"' not in html
    assert html.count("cannot be tested") > len(made.GAINS)


def test_a_course_is_the_mean_over_peers_then_over_groups() -> None:
    """At the rounds that all groups have; the live k-NN of a round is that of the weights after it."""
    first = [
        {"round": 0, "peer": 0, "loss": 1.0, "knn_live": 50.0, "knn_live_baseline": 40.0},
        {"round": 0, "peer": 1, "loss": 3.0, "knn_live": 60.0, "knn_live_baseline": 44.0},
        {"round": 5, "peer": 0, "skipped": "late"},
        {"round": 6, "peer": 0, "loss": 0.5},
        {"round": 6, "peer": 0, "loss": 0.7},  # done again after a restart
    ]
    assert of_records(first, "loss") == {0: 2.0, 6: 0.7}
    assert of_records(first, "knn_live") == {0: 42.0, 1: 55.0}
    course = over_groups([of_records(first, "loss"), {0: 4.0, 3: 1.0, 6: 0.9}, {}])
    assert course is not None
    assert course.xs == (0, 6)
    assert course.means == pytest.approx((3.0, 0.8))
    assert course.deviations == pytest.approx((2**0.5, 0.2 / 2**0.5))
    assert course.groups == 2
    assert over_groups([{}, {}]) is None


def test_long_courses_are_thinned() -> None:
    """Evenly, with both ends."""
    kept = thinned(range(10_000))
    assert len(kept) == MOST
    assert kept[0] == 0
    assert kept[-1] == 9_999


@pytest.mark.parametrize(
    ("value", "shown"),
    [(9.04, "+9.0"), (-1.26, "−1.3"), (-0.01, "0.0"), (0.0, "0.0"), (None, "–"), (float("nan"), "–")],  # noqa: RUF001
)
def test_differences_bear_their_sign(value: float | None, shown: str) -> None:
    """A plus, a real minus, or nothing at 0."""
    assert words.signed(value) == shown


def test_settings_are_written_as_people_do() -> None:
    """Not 0.0001 as 1e-04, nor 1e-05 as 0.0000."""
    values = [0.001, 1e-4, 1e-5, 30_000_000, 64, True, None, "cosine"]
    shown = ["0.001", "0.0001", "1e−5", "3e7", "64", "true", "null", "cosine"]  # noqa: RUF001
    assert [words.general(value) for value in values] == shown


def test_paths_of_this_machine_are_cut() -> None:
    """In free text; relative paths, fractions and addresses stay."""
    assert words.scrub("see /home/me/runs/x.log: 3/4 of runs/digits") == "see …/x.log: 3/4 of runs/digits"
    assert words.scrub("'/opt/a b'") == "'…/a b'"
    assert words.scrub("https://example.org/a") == "https://example.org/a"


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2: ratio of relative luminances."""
    shades = []
    for colour in (one, other):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    low, high = sorted(shades)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_in_both_themes() -> None:
    """3 : 1 for marks, 4.5 : 1 for words; and each light colour stands for one variable."""
    for tone in (*palette.HUES, palette.REFERENCE):
        assert _contrast(tone.light, palette.PAPER.light) >= 3, tone
        assert _contrast(tone.dark, palette.PAPER.dark) >= 3, tone
    for tone in (palette.INK, palette.MUTED, palette.LINK, palette.GOOD, palette.BAD):
        for ground in (palette.PAPER, palette.PANE):
            assert _contrast(tone.light, ground.light) >= 4.5, tone
            assert _contrast(tone.dark, ground.dark) >= 4.5, tone
    assert len({tone.light for tone in palette.TONES}) == len(palette.TONES)


def test_no_two_arms_look_alike() -> None:
    """However many; an arm's look depends on its place alone."""
    found = palette.looks([*(f"arm {place}" for place in range(100)), "arm 3"])
    assert len(found) == 100
    assert len({(look.tone, look.marker) for look in found.values()}) == 100


def test_the_command_starts_without_matplotlib() -> None:
    """Neither it nor torch is imported before there is something to draw."""
    code = (
        "import sys, coordinator.experiment.report.command; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
