"""The scale benchmark at toy size: every arrangement runs, all passes are written down, the line is the right one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scale_model import Line, Tree, best, fit, networked, pays_from, two_levels
from tests.benchmarks.service_load import ROOT
from tests.commands import run

LINE = Line(2e-3, 0.5e-3, 1.0)


def test_every_arrangement_is_measured(tmp_path: Path) -> None:
    """Two and four publishers, and a tree of two relays with two each: every pass has time, processor and memory."""
    out = tmp_path / "scale.json"
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--publishers", "2", "4", "--trees", "2x2"]
    command += ["--shape", "4", "8", "--rounds", "6", "--passes", "2", "--out", str(out)]
    code, output = run(command, tmp_path, PYTHONPATH=str(ROOT))
    assert code == 0, output
    made = json.loads(out.read_text())
    growth, trees, larger = made["tables"]
    assert [row[0] for row in growth["rows"]] == ["2", "4"]
    assert [row[:2] for row in trees["rows"]] == [["4", "one coordinator"], ["4", "2x2"]]
    assert [row[0] for row in larger["rows"]] == ["10,000"] * 3 + ["1,000,000"] * 3
    details = made["details"]
    assert details["shape"] == [4, 8]
    assert details["passes"].keys() == {"2", "4", "2x2"}
    for name, passes in details["passes"].items():
        assert len(passes) == 2
        for one in passes:
            assert one["rounds"] == (12 if name == "2" else 6)
            assert one["seconds"] > 0
            assert one["root_mib"] > 10
            assert (one["relay_cpu"] is None) is (one["relay_mib"] is None) is (name != "2x2")
    for line in details["fit"].values():
        assert line.keys() == {"a", "b", "r2"}


def test_the_fit_recovers_the_constants() -> None:
    """Of points on a line exactly, with R² 1; of points that are off by a few percent nearly, with less."""
    points = {members: LINE.at(members) for members in (2, 4, 8, 16, 32, 64, 128, 256)}
    exact = fit(points)
    assert (exact.a, exact.b, exact.r2) == pytest.approx((LINE.a, LINE.b, 1.0))
    off = fit(
        {members: seconds * (1.03 if place % 2 else 0.97) for place, (members, seconds) in enumerate(points.items())}
    )
    assert off.a == pytest.approx(LINE.a, rel=0.1)
    assert off.b == pytest.approx(LINE.b, rel=0.1)
    assert 0.9 < off.r2 < 1.0


def test_what_a_tree_takes() -> None:
    """Levels that follow each other, coordinators side by side or in turn; the best tree is no worse than any other."""
    tree = two_levels(10_000)
    assert tree == Tree(2, 100)
    assert tree.side_by_side(LINE) == pytest.approx(2 * (2e-3 + 100 * 0.5e-3))
    assert tree.in_turn(LINE) == pytest.approx(101 * (2e-3 + 100 * 0.5e-3))
    assert Tree(1, 10_000).side_by_side(LINE) == pytest.approx(LINE.at(10_000))
    assert two_levels(1_000_000) == Tree(2, 1_000)
    assert best(1_000_000, LINE).side_by_side(LINE) <= min(Tree(6, 10).side_by_side(LINE), tree.side_by_side(LINE))
    assert best(2, LINE) == Tree(1, 2)
    assert networked(LINE, 125_000).at(10) == pytest.approx(LINE.at(10) + 0.5e-3 + 10 * 0.2e-3)


def test_two_levels_pay_from_where_they_take_less_for_good() -> None:
    """Of all larger groups two levels are faster, of the one before they are not; a line without slope never pays."""
    least = pays_from(LINE)
    assert least is not None
    faster = [two_levels(peers).side_by_side(LINE) < Tree(1, peers).side_by_side(LINE) for peers in range(2, 3000)]
    assert all(faster[least - 2 :])
    assert not faster[least - 3]
    assert pays_from(Line(1.0, 0.0, 1.0)) is None
