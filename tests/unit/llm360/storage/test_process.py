"""Connections belong to one process."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

from llm360.storage.process import PerProcess


def test_made_once_by_many_threads():
    each = PerProcess(object)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(made) for made in pool.map(lambda _: each.get(), range(100))}) == 1


def test_pickled_as_its_recipe():
    each = PerProcess(os.getpid)
    each.get()
    assert pickle.loads(pickle.dumps(each)).get() == os.getpid()


def test_forked_child_makes_its_own(recwarn):
    each = PerProcess(os.getpid)
    assert each.get() == os.getpid()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(each.get()))
    child.start()
    assert receiver.poll(30)
    assert receiver.recv() == child.pid
    child.join(30)
    recwarn.clear()  # newer Pythons warn of forking beside threads, which pytest-timeout has
