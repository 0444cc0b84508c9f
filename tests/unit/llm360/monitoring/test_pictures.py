"""A dashboard's picture shows every panel, what its queries found, and nothing that they did not."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from llm360.monitoring.pictures import LETTER, Window, lay_out, svg_of
from llm360.monitoring.prometheus import Found
from llm360.report.series import Series

DASHBOARDS = sorted((Path(__file__).parents[4] / "helm/llm360/dashboards").glob("*.json"))
SVG = "{http://www.w3.org/2000/svg}"
WINDOW = Window(1000.0, 1600.0, {"run": "amber", "namespace": ".*"}, 5.0)


def board(*panels, annotations=()):
    made = [
        {
            "type": "timeseries",
            "title": f"panel {number}",
            "description": "It shows.",
            "gridPos": {"x": 0, "y": 8 * number, "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": "none"}},
            "targets": [{"expr": "up", "legendFormat": "line"}],
        }
        | panel
        for number, panel in enumerate(panels)
    ]
    marks = {"list": [{"name": name, "target": {"expr": expr}} for name, expr in annotations]}
    return {"title": "Board", "description": "All.", "panels": made, "annotations": marks}


def series(values, labels=None, every=5.0, start=1000.0):
    return Found(labels or {}, Series(start + every * np.arange(len(values)), np.array(values, dtype=float)))


def drawn(made, ask):
    text = svg_of(lay_out(made, WINDOW, ask))
    root = ET.fromstring(text)
    return root, [" ".join(each.itertext()) for each in root.iter(f"{SVG}text")]


def paths(root):
    return [each.get("d") for each in root.iter(f"{SVG}path")]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_is_there(path):
    made = json.loads(path.read_text())
    asked = []

    def ask(expr, step):
        asked.append(expr)
        return [series([1, 2, 3])]

    root, texts = drawn(made, ask)
    for panel in made["panels"]:
        assert any(text.startswith(panel["title"]) for text in texts), panel["title"]
    assert "no data" not in texts
    queries = [target["expr"] for panel in made["panels"] if panel["type"] != "row" for target in panel["targets"]]
    assert len(asked) == len(queries) + len(made["annotations"].get("list", ()))
    assert not any("$" in expr for expr in asked)
    assert len(paths(root)) == sum(len(p["targets"]) for p in made["panels"] if p["type"] == "timeseries")


def test_a_panel_without_data_says_so():
    _, texts = drawn(board({}, {"targets": [{"expr": "nan", "legendFormat": ""}]}), lambda expr, _: answers[expr])
    assert texts.count("no data") == 1


answers = {"up": [series([1, 2])], "nan": [series([np.nan, np.nan])]}


def test_a_line_does_not_cross_a_time_without_values():
    found = Found({}, Series(np.array([1000.0, 1005, 1010, 1300, 1305]), np.arange(5.0)))
    root, _ = drawn(board({}), lambda *_: [found])
    first, second = paths(root)
    assert (first.count("L"), second.count("L")) == (2, 1)
    assert second.startswith("M500.0,")  # half of the 600 seconds


def test_lines_are_named_by_their_labels_as_far_as_there_is_room():
    panel = {"targets": [{"expr": "up", "legendFormat": "{{run}} of rank {{rank}}"}]}
    root, texts = drawn(
        board(panel), lambda *_: [series([1, 2], {"run": "a", "rank": str(rank)}) for rank in range(64)]
    )
    assert "a of rank 0" in texts
    assert len(paths(root)) == 64
    assert sum("of rank" in text for text in texts) < 20


def test_one_number_is_said_and_several_are_named():
    one = {"type": "stat", "fieldConfig": {"defaults": {"unit": "percentunit"}}}
    two = one | {"targets": [{"expr": "up", "legendFormat": "first"}, {"expr": "up", "legendFormat": "second"}]}
    _, texts = drawn(board(one, two), lambda *_: [series([0.1, 0.25, np.nan])])
    assert texts.count("25.0%") == 3
    assert {"first", "second"} <= set(texts)


def test_names_of_many_numbers_are_cut_where_they_would_overlap():
    panel = {"type": "stat", "targets": [{"expr": "up", "legendFormat": "{{run}}"}]}
    runs = [f"test-0123456789/run-{number}" for number in range(8)]
    _, texts = drawn(board(panel), lambda *_: [series([1.0], {"run": run}) for run in runs])
    names = [text for text in texts if "run-" in text]
    assert {name[-6:] for name in names} == {f"/run-{number}" for number in range(8)}
    assert all(name.startswith("…") and len(name) * LETTER <= 600 / 8 for name in names)


def test_annotations_are_lines_where_they_begin_to_be_true():
    found = {
        "rise": [Found({}, Series(np.array([1060.0, 1065, 1070, 1300, 1305]), np.ones(5)))],
        "up": [series([1.0] * 100)],
    }
    root, texts = drawn(board({}, annotations=[("attempts", "rise")]), lambda expr, _: found[expr])
    marks = [each for each in root.iter(f"{SVG}line") if each.get("class") == "mark"]
    assert [float(each.get("x1")) for each in marks] == [100.0, 500.0]
    assert "dashed: attempts" in texts


def test_text_is_escaped():
    text = svg_of(lay_out(board({"title": "<script>"}), WINDOW, lambda *_: [series([1], {})]))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_variables_are_filled_as_grafana_does():
    filled = WINDOW.fill('rate(x{run=~"$run"}[$__rate_interval]) / increase(y[$__range])')
    assert filled == 'rate(x{run=~"amber"}[20s]) / increase(y[600s])'
    assert WINDOW.step == 5
    assert Window(0, 86400, {}).step == 432
    assert re.search(r"\[447s\]", Window(0, 86400, {}).fill("rate(x[$__rate_interval])"))
