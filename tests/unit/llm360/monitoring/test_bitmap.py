"""A dashboard as PNG shows in each panel's place what its queries found."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from llm360.monitoring.bitmap import png_of
from llm360.monitoring.pictures import HEAD, Window, lay_out
from llm360.monitoring.prometheus import Found
from llm360.report.images import COLORS
from llm360.report.series import Series

DASHBOARDS = sorted((Path(__file__).parents[4] / "helm/llm360/dashboards").glob("*.json"))
WINDOW = Window(1000.0, 1600.0, {"run": "amber", "namespace": ".*"}, 5.0)


def rising(*_):
    return [Found({}, Series(1000.0 + 5 * np.arange(121), np.linspace(0.0, 1.0, 121)))]


def line_in(picture, pixels):
    """Pixels within a panel that have the colour of its last line, which lies on top; by their places."""
    number = picture.chart.drawn.lines[-1].color if picture.chart else 0
    color = COLORS[number % len(COLORS)]
    top, left = 2 * (picture.y + HEAD), 2 * picture.x
    part = pixels[top : top + 2 * picture.height - 40, left : left + 2 * picture.width, :3]
    return np.argwhere((np.abs(part - np.array(to_rgb(color))) < 0.05).all(axis=2))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_chart_has_its_line(path):
    canvas = lay_out(json.loads(path.read_text()), WINDOW, rising)
    pixels = imread(io.BytesIO(png_of(canvas)))
    assert pixels.shape[:2] == (2 * (canvas.height + HEAD), 2400)
    charts = [picture for picture in canvas.pictures if picture.chart]
    assert len(charts) > 5
    for picture in charts:
        found = line_in(picture, pixels)
        assert len(found) > 100, picture.title
        (down, _), (up, _) = found[found[:, 1].argmin()], found[found[:, 1].argmax()]
        assert up < down, f"{picture.title}: a line that rises is drawn as one that falls"


def test_without_data_there_is_no_line_and_the_same_answers_give_the_same_bytes():
    board = json.loads(DASHBOARDS[0].read_text())
    empty = lay_out(board, WINDOW, lambda *_: [])
    once, again = png_of(empty), png_of(empty)
    assert once == again
    pixels = imread(io.BytesIO(once))
    assert all(len(line_in(picture, pixels)) == 0 for picture in empty.pictures)
    assert once != png_of(lay_out(board, WINDOW, rising))
