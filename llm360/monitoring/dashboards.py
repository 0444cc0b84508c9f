"""The dashboards' JSON, built with Grafana's own SDK from the panels; imported only where files are generated.

The SDK comes with the extra `dev`: what is generated is committed, so that nobody else needs it.
"""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from llm360.monitoring.panels import Board, Panel

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard_json(board: Board) -> str:
    """A dashboard as Grafana imports it."""
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.description).tags(["llm360"])
    built = built.readonly().refresh("30s").time("now-6h", "now").tooltip(models.DashboardCursorSync.CROSSHAIR)
    built = built.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for name, query in board.variables:
        built = built.with_variable(_variable(name, query))
    for name, query in board.annotations:
        built = built.annotation(_annotation(name, query))
    for title, panels in board.rows:
        built = built.with_row(dashboard.Row(title))
        for panel in panels:
            built = built.with_panel(_panel(panel))
    said = json.loads(JSONEncoder().encode(built.build()))
    return json.dumps(_as_published(said), sort_keys=True, indent=2) + "\n"


def _as_published(board: dict[str, Any]) -> dict[str, Any]:
    """Where the SDK differs from the schema that Grafana publishes (`@grafana/schema`), what the latter wants."""
    for variable in board["templating"]["list"]:
        for name in ("auto", "auto_count", "auto_min"):  # of variables that are intervals
            variable.pop(name, None)
    for annotation in board["annotations"].get("list", ()):
        annotation["target"] = {"expr": annotation.pop("expr"), "refId": "A"}
    return board


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    variable = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if name == "namespace":
        # `.*` finds series without the label, too: those of a replay, or of a run on a single machine.
        variable = variable.include_all(True).all_value(".*").multi(True)
    return variable


def _annotation(name: str, query: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color("orange").expr(query)


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    kind: stat.Panel | timeseries.Panel = stat.Panel() if panel.kind == "stat" else timeseries.Panel()
    kind = kind.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    kind = kind.span(panel.width).height(panel.height)
    if isinstance(kind, stat.Panel):
        kind = kind.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        kind = (
            kind.line_width(1)
            .show_points(common_models.VisibilityMode.NEVER)
            .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        )
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        kind = kind.with_target(target.datasource(SOURCE))
    return kind
