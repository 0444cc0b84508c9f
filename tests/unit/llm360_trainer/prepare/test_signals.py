"""SIGINT and SIGTERM stop a command alike, also while Ray starts, and the second one at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from llm360_trainer.prepare.signals import Interruption, exit_code_of, kept_handlers

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_an_exception_that_knows_its_exit_code(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, Interruption():
        os.kill(os.getpid(), number)
    assert exit_code_of(caught.value) == 128 + number
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", BOTH)
def test_a_deferred_one_is_kept(number: signal.Signals) -> None:
    with Interruption() as interruption:
        interruption.is_deferred = True
        os.kill(os.getpid(), number)
    assert interruption.signal is number


TWICE = """
import os, signal, sys
from llm360_trainer.prepare.signals import Interruption

def leave(number):
    print(number.name, "again")
    raise RuntimeError("reentrant call")

with Interruption(leave) as interruption:
    interruption.is_deferred = True
    os.kill(os.getpid(), signal.{name})
    assert interruption.signal
    sys.stdout = sys.stderr
    os.kill(os.getpid(), signal.{name})
print("not reached")
"""


@pytest.mark.parametrize("number", BOTH)
def test_the_second_ends_the_process_at_once_and_says_so(number: signal.Signals) -> None:
    script = TWICE.format(name=number.name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + number
    assert (done.stdout, done.stderr) == ("", f"{number.name} again\n")


def take_sigterm(asked: bool) -> None:
    """As `ray.init` does; a signal comes in the middle of it, or none."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    if asked:
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_ray_takes_is_given_back() -> None:
    with Interruption():
        ours = signal.getsignal(signal.SIGTERM)
        with kept_handlers():
            take_sigterm(asked=False)
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(KeyboardInterrupt) as caught, kept_handlers():
            take_sigterm(asked=True)
        assert exit_code_of(caught.value) == 143
        assert signal.getsignal(signal.SIGTERM) is ours
    with pytest.raises(SystemExit), kept_handlers():
        sys.exit(3)
