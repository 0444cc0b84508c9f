"""The CustomResourceDefinition of LLM360Run, from the models of its sections: `manifests/crd.yaml` and the chart's."""

from __future__ import annotations

from typing import Any

from llm360.spec.cel import CEL_RULES
from llm360.spec.run import API_VERSION, KIND
from llm360.spec.schema import Schema, openapi_schema

GROUP, _, VERSION = API_VERSION.partition("/")
PLURAL = "llm360runs"
RUN_LABEL = f"{GROUP}/run"
"""On every child of a run, and on its pods: the run's name."""

# name, type, JSON path, description; priority 1 is shown with -o wide alone.
_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the run stands.", 0),
    ("Step", "integer", ".status.step", "Finished optimizer steps.", 0),
    ("Total", "integer", ".status.totalSteps", "Optimizer steps of the whole run.", 0),
    ("Loss", "number", ".status.loss", "Mean loss of the last step, nats.", 0),
    ("Tokens/s", "number", ".status.tokensPerSecond", "Rate of the last step.", 0),
    ("Checkpoints", "integer", ".status.checkpoints", "Published checkpoints.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since the run was applied.", 0),
    ("Attempt", "integer", ".status.attempt", "Newest attempt in the ledger.", 1),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is, or is not, ready.", 1),
    ("Completion", "string", ".status.estimatedCompletion", "When it will be complete.", 1),
)


def crd() -> dict[str, Any]:
    """The definition as a Kubernetes object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": PLURAL.removesuffix("s"),
                "shortNames": ["lr"],
                "categories": ["all", "llm360"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": with_rules(openapi_schema())},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                }
            ],
        },
    }


def with_rules(schema: Schema) -> Schema:
    """Add the CEL rules to the nodes that they are about, in place; the schema itself is returned."""
    for rule in CEL_RULES:
        _node_at(schema, rule.path).setdefault("x-kubernetes-validations", []).append(rule.schema())
    return schema


def _node_at(schema: Schema, path: str) -> Schema:
    """The schema of a field; `[]` after a name steps into a list's entries."""
    node = schema
    for part in filter(None, path.split(".")):
        node = node["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            node = node["items"]
    return node


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})
