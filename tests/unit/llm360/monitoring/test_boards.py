"""Each panel says what it shows and asks for what exists; the JSON is whole."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from llm360.monitoring.alerts import ALERTS
from llm360.monitoring.boards import BOARDS
from llm360.monitoring.catalogue import CATALOGUE

FOLDER = Path(__file__).parents[4] / "helm/llm360/dashboards"
FOREIGN = {
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_SM_CLOCK",
    "container_network_receive_bytes_total",
    "container_network_transmit_bytes_total",
    "ray_object_store_memory",
}
"""Metrics of DCGM's exporter, of kubelet and of Ray."""

KNOWN = FOREIGN | {each.name + suffix for each in CATALOGUE for suffix in ("", "_bucket", "_count", "_sum")}
QUERIES = [query.expr for board in BOARDS for _, panels in board.rows for panel in panels for query in panel.queries]
QUERIES += [query for board in BOARDS for _, query in board.annotations]


def filled(expr):
    return expr.replace("$__rate_interval", "5m").replace("$__range", "6h")


@pytest.mark.parametrize("expr", QUERIES)
def test_each_query_parses_and_asks_for_known_metrics(expr):
    promql_parser.parse(filled(expr))
    asked = set(re.findall(r"(?<![\w\"])(?:llm360|ray|DCGM|container)_\w+", expr))
    assert asked
    assert asked <= KNOWN


def test_queries_that_cannot_be_parsed_are_refused():
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (run (x)")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_has_title_unit_description_and_its_own_place(board):
    made = json.loads((FOLDER / f"{board.uid}.json").read_text())
    assert (made["uid"], made["title"]) == (board.uid, board.title)
    taken = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith((".", "well."))
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(target["legendFormat"] for target in panel["targets"])
    variables = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$(namespace|run)\b", json.dumps(made["panels"])))
    assert variables == used | {"datasource"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_json_is_one_that_grafana_s_own_models_read(board):
    text = (FOLDER / f"{board.uid}.json").read_text()
    read = Dashboard.from_json(json.loads(text))
    assert len(read.panels) == len(json.loads(text)["panels"])


def test_every_metric_of_the_catalogue_is_shown_or_alerted_on():
    shown = set(re.findall(r"llm360_\w+", " ".join([*QUERIES, *(alert.expr for alert in ALERTS)])))
    shown = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in shown}
    assert {each.name for each in CATALOGUE} - shown == {"llm360_train_memory_bytes"}  # the ranks' own are shown
