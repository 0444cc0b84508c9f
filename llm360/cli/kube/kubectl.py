"""The cluster, as far as the commands need it, through the user's own kubectl; and the options that choose it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm360.errors import InputError, LLM360Error, nearest
from llm360.spec.crd import GROUP, PLURAL, RUN_LABEL

Object = Mapping[str, Any]

RUNS = f"{PLURAL}.{GROUP}"
REQUEST_SECONDS = 30


class ClusterUnreachableError(LLM360Error):
    """The API server gave no answer; later it may."""

    default_reason = "ClusterUnreachable"


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the namespace, context and kubeconfig of the command line; None: kubectl's own choice."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def get_run(self, name: str) -> Object:
        """A run's object.

        Raises:
            InputError: there is none of that name, or no LLM360Run at all.
            ClusterUnreachableError: no answer.
            LLM360Error: refused.
        """
        try:
            # kubectl leaves out who wrote which fields when, unless it is asked for.
            return dict(self._json("get", RUNS, name, "--show-managed-fields"))
        except _NotFoundError:
            where = f"namespace '{self.namespace}'" if self.namespace else "kubectl's present namespace"
            raise InputError(
                f"there is no run '{name}' in {where}{nearest(name, self.run_names())};"
                " see all with: kubectl get llm360runs -A",
                reason="RunMissing",
            ) from None

    def run_names(self) -> list[str]:
        """The names of the namespace's runs."""
        return [found["metadata"]["name"] for found in self._json("get", RUNS)["items"]]

    def namespaces(self) -> list[str]:
        """The names of the cluster's namespaces."""
        return [found["metadata"]["name"] for found in self._json("get", "namespaces")["items"]]

    def contexts(self) -> list[str]:
        """The names of the kubeconfig's contexts."""
        return self._output("config", "get-contexts", "--output=name").split()

    def pods(self, run: str) -> list[Object]:
        """The pods of a run."""
        return list(self._json("get", "pods", f"--selector={RUN_LABEL}={run}")["items"])

    def set_suspend(self, run: str, value: bool) -> None:
        """Change `spec.suspend` of a run and nothing else of it."""
        patch = json.dumps({"spec": {"suspend": value}})
        self._output("patch", RUNS, run, "--type=merge", f"--patch={patch}", "--output=name")

    def logs(self, *arguments: str) -> int:
        """`kubectl logs` straight to our own output; its exit code."""
        return subprocess.run(self._command("logs", *arguments), check=False).returncode

    def _json(self, *arguments: str) -> Any:
        return json.loads(self._output(*arguments, f"--request-timeout={REQUEST_SECONDS}s", "--output=json"))

    def _output(self, *arguments: str) -> str:
        done = subprocess.run(self._command(*arguments), check=False, capture_output=True, text=True)
        if done.returncode:
            raise explain(done.stderr)
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise InputError("there is no kubectl on PATH; install it, its kubeconfig says where the cluster is")
        chosen = {"namespace": self.namespace, "context": self.context, "kubeconfig": self.kubeconfig}
        return [program, *(f"--{name}={value}" for name, value in chosen.items() if value), *arguments]


class _NotFoundError(LLM360Error):
    """The object is not there."""


def explain(said: str) -> LLM360Error:
    """What kubectl printed when it failed, as an error of ours."""
    lines = [line for line in said.splitlines() if line.strip()] or ["kubectl failed without a word"]
    last = re.sub(r"^error: |^Error from server |^Unable to connect", lambda found: _PREFIXES[found[0]], lines[-1])
    if "doesn't have a resource type" in said or "could not find the requested resource" in said:
        return InputError(
            "the cluster knows no LLM360Run; install the chart helm/llm360, or choose another cluster with --context",
            reason="KindMissing",
        )
    if "(NotFound)" in said:
        return _NotFoundError(last)
    if re.search(r"\(Forbidden\)|\(Unauthorized\)|must be logged in", said):
        return LLM360Error(f"{last}; ask for the right, or choose another user with --context", reason="Forbidden")
    if re.search(r"Unable to connect|was refused|i/o timeout|ServiceUnavailable|deadline exceeded|EOF", said):
        return ClusterUnreachableError(f"the API server gave no answer: {last}; see kubectl cluster-info")
    is_ours = said.startswith(("error: ", "Error in configuration"))
    return InputError(f"kubectl: {last}") if is_ours else LLM360Error(f"kubectl: {last}")


_PREFIXES = {"error: ": "", "Error from server ": "", "Unable to connect": "unable to connect"}


def run_name(text: str) -> str:
    """A run's name as it is typed; `llm360run/NAME`, as kubectl prints it, is taken too."""
    name = text.rpartition("/")[2]
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        raise argparse.ArgumentTypeError(f"'{text}' is no name of a run; small letters, digits and '-' make one")
    return name


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN and the options that say where it is."""
    parser.add_argument("name", metavar="RUN", type=run_name, help="name of an LLM360Run")
    parser.add_argument("-n", "--namespace", help="its namespace (default: kubectl's present one)")
    parser.add_argument("--context", help="the kubeconfig's context (default: kubectl's present one)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig (default: as kubectl finds it)")


def kubectl_of(args: argparse.Namespace) -> Kubectl:
    """The cluster that the command line chose."""
    return Kubectl(args.namespace, args.context, args.kubeconfig)
