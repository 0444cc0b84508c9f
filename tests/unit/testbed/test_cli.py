"""What a person gets who asks for the wrong thing."""

from __future__ import annotations

import sys

import pytest
from testbed import __main__ as cli
from testbed import cluster, layout


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["testbed", *arguments])
    return cli.main()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fault", "node"), "the fault 'node' needs a NAME: node NAME without power"),
        (("fault", "cut-node", "node7"), "there is no node 'node7'; there are node0, node1"),
        (("logs", "nobody"), "there is no log 'nobody'; `python -m testbed logs` lists them"),
        (("load", "nothing"), "images/NAME/Dockerfile describes an image, or name one: --file"),
        (("fault", "full-disk", "s9"), "there is no disk 's9'; there are node0, node1, s3"),
    ],
)
def test_one_sentence_and_exit_code_1(monkeypatch, capsys, arguments, sentence):
    assert run(monkeypatch, *arguments) == 1
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [("kubeconfig",), ("kwok", "3"), ("fault", "api-server")])
def test_what_needs_a_cluster_says_how_to_get_one(monkeypatch, capsys, arguments):
    monkeypatch.setattr(cluster, "owner", lambda: None)
    assert run(monkeypatch, *arguments) == 1
    assert "no testbed is up; `python -m testbed up`" in capsys.readouterr().err


def test_a_build_argument_is_an_assignment(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "load", "x", "--build-arg", "EXTRAS")
    assert ended.value.code == 2
    assert "'EXTRAS' is not NAME=VALUE" in capsys.readouterr().err


def test_help_lists_commands_faults_and_examples(monkeypatch, capsys):
    for arguments, expected in ((("--help",), "examples:"), (("fault", "--help"), "full-disk")):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *arguments)
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


def test_another_checkouts_testbed_is_refused_by_name(monkeypatch):
    owner = cluster.Owner("/elsewhere", 7, "today", ready=True)
    monkeypatch.setattr(cluster, "members", lambda _: [7])
    with pytest.raises(cluster.TestbedError, match="the testbed of /elsewhere, started today by process 7 is up"):
        cluster._refuse_anothers(owner, force=False)
    cluster._refuse_anothers(owner, force=True)
    cluster._refuse_anothers(cluster.Owner(str(layout.CHECKOUT), 7, "today"), force=False)


def test_what_a_reboot_left_is_nobodys(monkeypatch):
    monkeypatch.setattr(cluster, "members", lambda _: [])
    cluster._refuse_anothers(cluster.Owner("/elsewhere", 7, "today", ready=True), force=False)
