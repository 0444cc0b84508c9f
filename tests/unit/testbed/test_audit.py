from __future__ import annotations

import json

from testbed.audit import Request, requests

CREATED = {
    "user": {"username": "admin"},
    "verb": "create",
    "objectRef": {"resource": "pods", "subresource": "binding", "namespace": "a", "name": "b"},
    "responseStatus": {"code": 201},
}
NOBODY = {"user": {}, "verb": "get", "objectRef": {"resource": "pods"}, "responseStatus": {"code": 401}}
CUT_OFF = {"user": {"username": "admin"}, "verb": "get"}


def test_whoever_asks_and_whatever_for(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in (CREATED, NOBODY, CUT_OFF)))
    assert requests(log) == [
        Request("admin", "create", "pods/binding", "a", "b", 201),
        Request("", "get", "pods", "", "", 401),
        Request("admin", "get", "", "", "", 0),
    ]


def test_a_line_that_is_still_written_is_left_out(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.write_text(json.dumps(CREATED) + "\n" + json.dumps(NOBODY)[:40])
    assert [request.verb for request in requests(log)] == ["create"]
