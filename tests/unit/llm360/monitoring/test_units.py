"""Values and axes in the words of Grafana's units; every unit of the dashboards is known."""

import json
from pathlib import Path

import pytest

from llm360.monitoring.units import UNITS, say, scale_of

DASHBOARDS = Path(__file__).parents[4] / "helm/llm360/dashboards"


@pytest.mark.parametrize(
    ("unit", "value", "said"),
    [
        ("percentunit", 0.4567, "45.7%"),
        ("s", 0.0125, "12.5 ms"),
        ("s", 1.5, "1.5 s"),
        ("s", 0, "0s"),
        ("s", 3723, "1h02m"),
        ("bytes", 3 * 2**30, "3.00 GiB"),
        ("Bps", 2**20, "1 MiB/s"),
        ("short", 12345, "12.3k"),
        ("h", 12.5, "12.5 h"),
        ("hertz", 1.98e9, "1.98 GHz"),
        ("celsius", 61, "61 °C"),
        ("ops", 2.5, "2.5 per second"),
        ("bool_yes_no", 1, "yes"),
        ("bool_yes_no", 0, "no"),
        ("none", 4.25, "4.25"),
        ("sci", 0.0003, "0.0003"),
        ("none", float("nan"), "nan"),
    ],
)
def test_a_value_is_said_in_its_unit(unit, value, said):
    assert say(unit, value) == said


def test_an_axis_has_the_unit_that_fits_its_greatest_value():
    assert scale_of("s", 0.2) == (pytest.approx(1000), "ms")
    assert scale_of("s", 90) == (pytest.approx(1 / 60), "min")
    assert scale_of("bytes", 100) == (1, "B")
    assert scale_of("bytes", 5 * 2**20) == (1 / 2**20, "MiB")
    assert scale_of("none", 12) == (1, "")


def test_every_unit_of_the_dashboards_is_known():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")]
    used = {p["fieldConfig"]["defaults"]["unit"] for board in boards for p in board["panels"] if p["type"] != "row"}
    assert used <= UNITS
