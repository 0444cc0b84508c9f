"""What kubectl prints when it fails, and names of runs as they are typed."""

import argparse

import pytest

from llm360.cli.kube.kubectl import explain, run_name

SAID = [
    ('Error from server (Forbidden): llm360runs.llm360.ai "a" is forbidden: User "x" cannot get', 1, "Forbidden"),
    ("error: You must be logged in to the server (Unauthorized)", 1, "Forbidden"),
    ('error: the server doesn\'t have a resource type "llm360runs"', 2, "KindMissing"),
    ("E1122 memcache.go:265] x\nThe connection to the server h:6443 was refused - did you?", 1, "ClusterUnreachable"),
    ("Unable to connect to the server: dial tcp: i/o timeout", 1, "ClusterUnreachable"),
    ("Error from server (ServiceUnavailable): apiserver is shutting down", 1, "ClusterUnreachable"),
    ('error: context "x" does not exist', 2, "InvalidInput"),
    ("Error from server (Invalid): spec: Invalid value: the identity cannot change", 1, "Failed"),
    ("", 1, "Failed"),
]


@pytest.mark.parametrize(("said", "code", "reason"), SAID, ids=[said[:40] for said, *_ in SAID])
def test_kubectls_words_become_our_errors(said, code, reason):
    error = explain(said)
    assert (error.exit_code, error.reason) == (code, reason)
    assert "\n" not in error.message


@pytest.mark.parametrize("text", ["amber-7b", "llm360run.llm360.ai/amber-7b", "llm360runs/amber-7b"])
def test_names_as_kubectl_prints_them(text):
    assert run_name(text) == "amber-7b"


@pytest.mark.parametrize("text", ["", "-A", "Amber", "a b", "--raw", "a/", "a;b"])
def test_what_is_no_name(text):
    with pytest.raises(argparse.ArgumentTypeError, match="no name of a run"):
        run_name(text)
