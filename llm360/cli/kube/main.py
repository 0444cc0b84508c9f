"""Entry point of the plugin `kubectl-llm360`: its table of commands."""

from __future__ import annotations

import sys

from llm360.cli.main import Program, run

# name: (module, one line of help). In the order in which a newcomer meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("llm360.cli.kube.status", "show where a run stands, what is wrong and what to do"),
    "logs": ("llm360.cli.kube.logs", "print what a run's driver, workers or preflight say"),
    "suspend": ("llm360.cli.kube.suspend", "have a run write a checkpoint, stop and free its pods"),
    "resume": ("llm360.cli.kube.resume", "let a suspended run go on"),
    "report": ("llm360.cli.kube.report", "write a run's report as one HTML page"),
    "verify": ("llm360.cli.kube.verify", "check a run's whole history against its bytes"),
}

EPILOG = """\
examples:
  kubectl llm360 status amber-7b -w             where it stands, until it is over
  kubectl llm360 logs amber-7b -f               what its driver says
  kubectl llm360 suspend amber-7b -n research   free its pods; resume goes on from the last checkpoint

What needs no cluster is in `llm360 --help`.

exit codes:
  0 done · 1 failed · 2 bad input, or there is no such run · 130 interrupted · 141 the reader of the output has gone
"""

PLUGIN = Program("kubectl llm360", "Show, hold and check the runs of a cluster.", EPILOG, COMMANDS)


def main() -> int:
    """The console script."""
    return run(sys.argv[1:], PLUGIN)


if __name__ == "__main__":
    sys.exit(main())
