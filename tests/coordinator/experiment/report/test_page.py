"""The report's page: its numbers and sentences, what it leaves out, and that it is the same file every time."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from coordinator.experiment.report.command import write_report
from tests.coordinator.experiment.report import made

GOLDEN = Path(__file__).with_name("sentences.txt")


def words(html: str) -> str:
    """The text of a page as a reader sees it, without its style and script."""
    plain = re.sub(r"<(style|script)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"</?(?:strong|span|wbr)[^>]*>", "", plain)).translate({0xA0: " "}).split())


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    """The page of `whole`."""
    return (whole / "report" / "report.html").read_text()


def sentences(html: str) -> str:
    """Each heading, paragraph, item and caption of a page on a line; without versions and hardware."""
    html = re.sub(r'<h3 id="versions">.*?(?=<h3 id="folders">)|<nav.*?</nav>', "", html, flags=re.DOTALL)
    blocks = re.findall(r"<(h\d|p|li|dt|dd|caption|figcaption|summary)\b[^>]*>(.*?)</\1>", html, flags=re.DOTALL)
    lines = (f"{tag}: {' '.join(re.sub('<[^>]*>', '', words(text)).split())}" for tag, text in blocks)
    return "\n".join(lines) + "\n"


def test_the_sentences_of_the_page(html: str, tmp_path: Path) -> None:
    """All of them with their numbers: an experiment with a failed group, its analysis, and a sweep that stops."""
    actual = tmp_path / GOLDEN.name
    actual.write_text(sentences(html))
    assert actual.read_text() == GOLDEN.read_text(), f"if the change is meant: cp {actual} {GOLDEN}"


def test_the_verdict_comes_first(html: str) -> None:
    """A card for each probe, before any drawing; what the claim does not beat stands apart from what the others do."""
    cards = re.findall(r'<article class="verdict (\w+)">(.*?)</article>', html, flags=re.DOTALL)
    assert [kind for kind, _ in cards] == ["won", "won"]
    assert html.rindex("</article>") < html.index('class="drawing"')
    for (_, card), (gain, unbeaten) in zip(cards, [("+9.0", 1), ("+12.0", 2)], strict=True):
        assert f"<strong>{gain}</strong> points" in card
        others, _, against = card.partition('<ul class="against">')
        assert others.count("<li>") == len(made.ARMS) - 1
        assert against.count("<li>") == unbeaten


def test_every_number_of_the_statistics_is_in_a_table(html: str, whole: Path) -> None:
    """Accuracy, gain, both intervals, three p-values, effect size, seeds for 80 % power; single seeds."""
    gain = json.loads((whole / "made" / "results.json").read_text())["gains"]["linear"]["shuffled"]
    row = next(row for row in re.findall(r"<tr>.*?</tr>", html) if "+11.9" in row)
    low, high = gain["bootstrap_interval"]
    shown = words(row)
    for expected in (
        "+11.9",
        f"+{low:.1f} to +{high:.1f}",
        "< 0.001",
        f"{gain['wilcoxon_p']:.3f}",
        f"{gain['d_z']:.1f}",
    ):
        assert expected in shown
    assert f'data-key="{gain["difference"]:.12g}"' in row
    assert words(html).count("seeds, 80 % power") == 4  # gains and comparisons, of two probes
    assert f"{made.BEFORE['knn'][0] + made.GAINS['knn']['consensus'][0]:.2f}" in html


def test_tables_can_be_sorted(html: str) -> None:
    """Each header is a button that keyboards reach, and says how its column is sorted."""
    tables = re.findall(r"<table\b.*?</table>", html, flags=re.DOTALL)
    assert len(tables) >= 8
    for table in tables:
        heads = re.findall(r"<th scope=\"col\".*?</th>", table)
        assert heads
        assert all('aria-sort="none"' in head and '<button type="button">' in head for head in heads)


def test_a_grid_of_two_settings_is_a_map_and_one_on_test_images_is_told_apart(tmp_path: Path) -> None:
    """A recipe must not be chosen on test images: whoever reads the page learns that it would be."""
    folder = made.sweep(tmp_path, split="test")
    html = write_report([folder], tmp_path).read_text()
    assert "must choose nothing" in words(html)
    maps = [
        drawing
        for drawing in re.findall(r'<svg class="drawing".*?</svg>', html)
        if "mean gain, points, over" in drawing
    ]
    assert len(maps) == 2
    assert all(drawing.count("<text") == 12 + 1 + 2 + 3 + 4 for drawing in maps)  # cells, title, axes, ticks


def test_the_analysis_is_shown(html: str, whole: Path) -> None:
    """A figure for each measure, pictures as data, and the mean of the transfer with its deviation."""
    names = {path.stem.removeprefix("analysis-made-") for path in (whole / "report" / "figures").glob("analysis-*.svg")}
    assert names == {
        *("effective-rank", "disagreement", "cka-peers", "cka-initial", "alignment", "uniformity"),
        *("spectrum", "stages", "content", "content-detail", "classes", "classes-accuracy"),
        *("embedding-before", "embedding-consensus"),
    }
    assert "74.4 ± 0.3" in words(html)
    assert html.count("data:image/png;base64,") == 3


def test_what_comes_from_files_is_text(html: str) -> None:
    """Recipes are shown as they were written; markup in them is none in the page."""
    assert "<td>&lt;b&gt;vgg" not in html
    assert "&lt;b&gt;vgg&lt;/b&gt;" in html
    assert "None of them &lt;held&gt;." in html


def test_absent_parts_leave_no_section(tmp_path: Path) -> None:
    """Without metrics, analysis, sweeps and recipes there is no heading for any of them, and nothing is missed."""
    folder = made.experiment(tmp_path, metrics=False, analysis=False)
    html = write_report([folder], tmp_path / "out").read_text()
    assert re.findall(r'<section id="([a-z]+)"', html) == ["verdict", "gains", "protocol", "appendix"]
    for absent in ("Rejected recipes", "Embedding", "Over the rounds", "failed and", "skipped"):
        assert absent not in words(html)


def test_the_same_folders_give_the_same_bytes(whole: Path, html: str) -> None:
    """Page, SVG and PNG, whenever and wherever they are written."""
    again = whole / "again"
    write_report([whole / "made", whole / "asha"], again)
    assert (again / "report.html").read_text() == html
    figures = sorted(path.name for path in (again / "figures").iterdir())
    assert figures == sorted(path.name for path in (whole / "report" / "figures").iterdir())
    for name in figures:
        assert (again / "figures" / name).read_bytes() == (whole / "report" / "figures" / name).read_bytes(), name


def test_the_page_asks_nobody_for_anything(html: str, whole: Path) -> None:
    """No address in any attribute or style, a policy that forbids all of them, no path of this machine."""
    assert not re.findall(r"""(?:src|href|action|data|xlink:href)\s*=\s*["']?(?:https?:)?//""", html)
    assert not re.findall(r"url\(\s*[\"']?(?!#)", html)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert '<link rel="icon" href="data:,">' in html
    assert str(whole) not in html
    assert "/srv/lab" not in html


def test_ids_are_unique_and_references_lead_somewhere(html: str) -> None:
    """Drawings are cut from files of their own: in one page their ids must not meet."""
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for reference in [*re.findall(r'href="#([^"]+)"', html), *re.findall(r"url\(#([^)]+)\)", html)]:
        assert reference in ids


def test_drawings_follow_the_theme_and_say_what_they_show(html: str) -> None:
    """No fixed colour; a role, a label, and a caption for each figure that says how many seeds."""
    drawings = re.findall(r'<svg class="drawing".*?</svg>', html, flags=re.DOTALL)
    assert len(drawings) > 20
    for drawing in drawings:
        assert re.match(r'<svg class="drawing" viewBox="[\d. ]+" role="img" aria-label="[^"]{20,}">', drawing)
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing)
        assert "font-family" not in drawing
        ElementTree.fromstring(drawing.replace("&nbsp;", " "))  # noqa: S314 - our own
    assert html.count("<figcaption>") == html.count("<figure>")
    captions = [words(caption) for caption in re.findall(r"<figcaption>(.*?)</figcaption>", html)]
    assert all("seed" in caption for caption in captions)


def test_figures_are_files_too(whole: Path, html: str) -> None:
    """Each drawing of the page as SVG and PNG, with a legend of its own."""
    figures = whole / "report" / "figures"
    names = {path.stem for path in figures.glob("*.svg")}
    assert names == {path.stem for path in figures.glob("*.png")}
    assert len(names) == html.count('<svg class="drawing"')
    assert "shuffled" in (figures / "curve-made-loss.svg").read_text()
    assert (figures / "curve-made-loss.png").read_bytes().startswith(b"\x89PNG")


def test_two_experiments_share_a_page(tmp_path: Path) -> None:
    """Each under its name; an arm keeps its colour, and figures of the same name do not overwrite each other."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = made.experiment(tmp_path / "a", metrics=False, analysis=False)
    second = made.experiment(tmp_path / "b", metrics=False, analysis=False)
    html = write_report([first, second, first], tmp_path).read_text()
    assert 'id="verdict-made"' in html
    assert 'id="verdict-made-2"' in html
    assert 'id="verdict-made-3"' not in html
    assert len(set(re.findall(r'data-series="(\d)">.*?<span>shuffled', html))) == 1
    assert (tmp_path / "figures" / "gain-made-2-knn.svg").is_file()
