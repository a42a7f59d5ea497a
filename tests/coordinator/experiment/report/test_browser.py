"""The report in a browser: both themes, wide and narrow, nothing but the file itself, tables that sort."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"needs Debian's chromium at {CHROMIUM}")


@pytest.fixture(scope="module")
def address(whole: Path) -> str:
    """Where the page is."""
    return (whole / "report" / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def show(browser: Browser, address: str, scheme: Any = "light", width: int = 1280) -> tuple[Page, list[str]]:
    """The page in a window, and a list that gets everything that should not happen."""
    view: Any = {"width": width, "height": 900}
    page = browser.new_page(color_scheme=scheme, viewport=view, reduced_motion="reduce")  # no transition to wait for
    wrong: list[str] = []
    page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _foreign(request.url, address) else None)
    page.goto(address)
    return page, wrong


def _foreign(url: str, address: str) -> bool:
    return url != address and not url.startswith("data:")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_asks_for_nothing(browser: Browser, address: str, scheme: str, width: int) -> None:
    """No error, no warning, no request, nothing wider than the window, every drawing visible."""
    page, wrong = show(browser, address, scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg, img')].map((one) => one.getBoundingClientRect())"
        ".map((box) => [box.width, box.height, box.right])"
    )
    assert len(sizes) > 30
    drawn = page.evaluate(
        "[...document.querySelectorAll('svg.drawing')].map((one) => one.getBoundingClientRect().right)"
    )
    assert all(right <= width for right in drawn)
    assert all(wide > 0 and high > 0 for wide, high, _ in sizes)
    assert wrong == []
    page.close()


def test_no_words_are_cut_off_or_lie_upon_each_other(browser: Browser, address: str) -> None:
    """Letters of each drawing stay within it, and no two words of an axis or of a title meet."""
    page, _ = show(browser, address)
    clashes = page.evaluate(
        """() => [...document.querySelectorAll("svg.drawing")].flatMap((drawing) => {
          const edge = drawing.getBoundingClientRect();
          const words = [...drawing.querySelectorAll("text")];
          const boxes = words.map((one) => [one.textContent, one.getBoundingClientRect()]);
          const outside = (box) => box.left < edge.left - 2 || box.right > edge.right + 2
            || box.top < edge.top - 2 || box.bottom > edge.bottom + 2;
          const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 3 && b.top < a.bottom - 3;
          const cut = boxes.filter(([, box]) => outside(box)).map(([text]) => `${text} is cut off`);
          const met = boxes.flatMap(([text, a], place) => boxes.slice(place + 1)
            .filter(([, b]) => meet(a, b)).map(([other]) => `${text} meets ${other}`));
          return [...cut, ...met].map((what) => `${drawing.getAttribute("aria-label").slice(0, 60)}: ${what}`);
        })"""
    )
    assert clashes == []
    page.close()


def test_tables_sort_by_click_and_by_key(browser: Browser, address: str) -> None:
    """Up, then down; what has no value stays last, and the header says how it is sorted."""
    page, _ = show(browser, address)
    table = page.locator("#gains table").first
    header = table.locator("thead th").nth(2)

    def arms() -> list[str]:
        return [" ".join(text.split()) for text in table.locator("tbody th").all_text_contents()]

    before = arms()
    assert before == ["random network", "consensus", "independent", "shuffled", "raw pixels"]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert arms() == ["independent", "shuffled", "consensus", "random network", "raw pixels"]
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert arms() == ["consensus", "shuffled", "independent", "random network", "raw pixels"]
    table.locator("thead th").nth(0).locator("button").click()
    assert header.get_attribute("aria-sort") == "none"
    assert arms() == sorted(before)
    page.close()


def test_the_theme_is_the_systems_until_the_reader_says_otherwise(browser: Browser, address: str) -> None:
    """Paper and ink change places with the system and with the button, in drawings as well."""
    colours = """() => [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("svg.drawing text")).fill]"""
    light, _ = show(browser, address, "light")
    dark, _ = show(browser, address, "dark")
    in_light, in_dark = light.evaluate(colours), dark.evaluate(colours)
    assert in_light[0] != in_dark[0]
    assert in_light[1] != in_dark[1]
    light.locator("#theme").click()
    assert light.evaluate(colours) == in_dark
    light.reload()
    assert light.evaluate(colours) == in_light
    light.emulate_media(media="print", color_scheme="dark")
    assert light.evaluate(colours)[0] == in_light[0]
    light.close()
    dark.close()


def test_an_arm_is_brought_out_in_all_figures(browser: Browser, address: str) -> None:
    """By its key in any legend; pressed again, all are back. A mark says its value when it is touched."""
    page, _ = show(browser, address)
    page.locator("button.key", has_text="shuffled").first.click()
    opacity = "(one) => getComputedStyle(document.querySelector(`#curves .series-${one}`)).opacity"
    assert float(page.evaluate(opacity, 0)) < 0.2
    assert page.evaluate(opacity, 2) == "1"
    pressed = page.locator("button.key[aria-pressed=true]").all_text_contents()
    assert set(pressed) == {"shuffled"}
    assert len(pressed) > 1
    page.locator("button.key", has_text="shuffled").first.click()
    assert page.evaluate(opacity, 0) == "1"
    page.locator("#curves svg.drawing").first.locator(".series-0 use").last.hover()
    assert re.fullmatch(r"consensus, round \d+: [\d.]+ ± [\d.]+", page.locator("#tip").inner_text())
    page.close()
