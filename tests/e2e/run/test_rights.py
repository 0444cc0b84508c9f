"""The operator may do what it does, and nothing else: the chart's roles against the API server's audit log."""

from __future__ import annotations

import pytest
from testbed import audit, kubectl

ACCOUNT = "system:serviceaccount:llm360-system:llm360"
BEFORE = {"test_fail_fast.py", "test_faults.py", "test_queue.py"}
"""Together these have the operator do everything that it ever does."""


@pytest.fixture
def granted(operator):
    """Verb and resource of every right that the chart gives the operator, not the users of a namespace."""
    chart = "llm360-system", "app.kubernetes.io/name=llm360-operator"
    bound = {each["roleRef"]["name"] for each in kubectl.find("clusterrolebindings,rolebindings", *chart)}
    roles = [each for each in kubectl.find("clusterroles,roles", *chart) if each["metadata"]["name"] in bound]
    rules = [rule for role in roles for rule in role["rules"]]
    return {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


@pytest.fixture
def requests(operator):
    """Verb, resource and the answer's code of every request of the operator for an object."""
    asked = (each for each in audit.requests() if each.user == ACCOUNT and each.resource and each.code)
    return {(each.verb, each.resource, each.code) for each in asked}


def test_nothing_that_is_not_granted_is_asked_for(granted, requests):
    # An API server that has just started, or whose chart is being removed, refuses for a moment what is granted.
    assert {(verb, resource) for verb, resource, code in requests if code == 403} <= granted


def test_every_right_is_used(request, granted, requests):
    if not {item.path.name for item in request.session.items} >= BEFORE:
        pytest.skip("says something only after the tests of runs: pytest tests/e2e/run")
    assert {(verb, resource) for verb, resource, code in requests if code < 300} == granted
