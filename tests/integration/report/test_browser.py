"""The report as a browser shows it: at desktop and phone width, in light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm360.report.write import write_report
from llm360.storage import open_storage

WIDTHS = (1280, 768, 390)

# Elements that reach beyond the page's width and do not lie in a box that scrolls.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width > 0 && box.right > document.documentElement.clientWidth + 1
    && !e.closest('.scroll, pre, svg, .packages');
}).map(e => e.outerHTML.slice(0, 120))
"""

CONTRAST = Path(__file__).with_name("contrast.js").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory, measured_release) -> Path:
    storage = open_storage(str(tmp_path_factory.mktemp("runs") / "amber-tiny"))
    measured_release(storage)
    return Path(write_report(storage, extent="all", compare=("amber-7b",)).place)


@pytest.mark.parametrize("width", WIDTHS)
def test_page_never_scrolls_sideways(browser, page, width):
    browser.open(page, width=width)

    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOWING) == []


def test_page_asks_the_network_for_nothing(browser, page):
    browser.open(page, width=1280)

    requested = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requested == [page.as_uri()]


def test_page_gives_the_browser_nothing_to_complain_of(browser, page):
    browser.open(page, width=1280)

    assert [e["params"] for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
    assert browser.evaluate("document.compatMode") == "CSS1Compat"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser, page, dark):
    """Contrast of at least 4.5 : 1 (WCAG 2.1, AA)."""
    browser.open(page, width=1280, dark=dark)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    contrast, element = browser.evaluate(CONTRAST)

    assert background == ("rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)")
    assert contrast >= 4.5, element


@pytest.mark.parametrize("width", WIDTHS)
def test_every_curve_has_a_size_and_lies_inside_its_axes(browser, page, width):
    browser.open(page, width=width)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('.chart .area > svg')].map(e => [e.clientWidth, e.clientHeight])"
    )

    assert len(sizes) == 8 + 1 + 5  # of the training, evaluations, analyses
    assert all(across >= 250 and down >= 150 for across, down in sizes)


@pytest.mark.parametrize("width", WIDTHS)
def test_axis_labels_do_not_lie_over_each_other(browser, page, width):
    browser.open(page, width=width)
    overlaps = browser.evaluate(
        "[...document.querySelectorAll('.x-axis')].filter(axis => { const b = [...axis.children].map(e =>"
        " e.getBoundingClientRect()); return b.some((box, i) => i && box.left < b[i - 1].right + 2) }).length"
    )

    assert overlaps == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_shades_of_a_heat_map_grow_with_their_values_and_can_be_read(browser, page, dark):
    """The cell's colour as it is seen: the shade over the page, against the text upon it."""
    browser.open(page, width=1280, dark=dark)
    cells = browser.evaluate("""
    [...document.querySelectorAll('#memory rect.shade')].filter(e => e.querySelector('title')).map(e => {
      const look = getComputedStyle(e);
      return [e.querySelector('title').textContent, look.fill, +look.fillOpacity];
    })""")
    text, paper = browser.evaluate("['color', 'backgroundColor'].map(n => getComputedStyle(document.body)[n])")
    by_value = sorted((float(title.rsplit(": ")[1].split()[0]), opacity) for title, _, opacity in cells)
    assert len(cells) == 18
    assert [opacity for _, opacity in by_value] == sorted(opacity for _, _, opacity in cells)
    for _, fill, opacity in cells:
        seen = [opacity * over + (1 - opacity) * under for over, under in zip(rgb(fill), rgb(paper), strict=True)]
        assert contrast(rgb(text), seen) >= 4.5


def rgb(color: str) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", color)[:3]]


def contrast(one: list[float], other: list[float]) -> float:
    """Of two colours, WCAG 2.1."""

    def luminance(color: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
