"""The queue: no key twice, no run in two rounds at a time, nothing forgotten, failures later and later."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360_operator.metrics import Metrics
from llm360_operator.names import Key
from llm360_operator.queueing import LAST_BACKOFF_SECONDS, Queue, Schedule, backoff

KEYS = [Key("a", name) for name in "xyz"]


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from(KEYS), st.integers(0, 9)),
            st.tuples(st.just("take"), st.just(None), st.integers(0, 3)),
            st.tuples(st.just("done"), st.sampled_from(KEYS), st.none() | st.integers(0, 9)),
        ),
        max_size=80,
    )
)
def test_a_schedule_gives_out_what_is_due_once_and_forgets_nothing(moves):
    schedule, now = Schedule(), 0.0
    due: dict[Key, float] = {}
    taken: dict[Key, float | None] = {}
    for move, key, number in moves:
        if move == "add":
            held = taken if key in taken else due
            asked = held.get(key)
            held[key] = now + number if asked is None else min(asked, now + number)
            schedule.add(key, now + number)
        elif move == "take":
            now += number
            got = schedule.take(now)
            ready = [key for key in due if due[key] <= now]
            assert (got is None) == (not ready)
            if got is not None:
                assert due.pop(got) <= min((due[key] for key in ready if key in due), default=now)
                assert got not in taken
                taken[got] = None
        elif key in taken:
            times = [time for time in (taken.pop(key), None if number is None else now + number) if time is not None]
            if times:
                due[key] = min(times)
            schedule.done(key, None if number is None else now + number)
        assert len(schedule) == len(due)
        assert schedule.num_due(now) == sum(time <= now for time in due.values())
        assert schedule.num_taken == len(taken)
        assert schedule.next_due() == min(due.values(), default=None)


def test_keys_come_in_the_order_in_which_they_are_due():
    schedule = Schedule()
    for key, due in zip(KEYS, (3, 1, 2), strict=True):
        schedule.add(key, due)
    assert [schedule.take(9) for _ in range(4)] == [KEYS[1], KEYS[2], KEYS[0], None]


def test_pauses_grow_to_a_minute():
    pauses = [backoff(failures) for failures in range(1, 100)]
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_BACKOFF_SECONDS


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def rounds(work, script):
    """Runs a script against a queue whose turns the script takes itself; returns the script's result."""

    async def main():
        clock = Clock()
        queue = Queue(work, parallel=2, clock=clock)

        async def turn(times=1):
            for _ in range(times):
                queue._wake.set()  # so that a turn does not sleep
                await queue.turn()
                await asyncio.sleep(0)

        return await script(queue, clock, turn)

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_a_run_is_never_in_two_rounds_and_what_comes_meanwhile_is_not_lost():
    active, most, count = set(), [], []
    gate = asyncio.Event()

    async def work(key):
        assert key not in active
        active.add(key)
        count.append(key)
        most.append(len(active))
        await gate.wait()
        active.remove(key)

    async def script(queue, clock, turn):
        for _ in range(5):
            for key in KEYS:
                queue.add(key)
            await turn()
        assert len(count) == 2
        gate.set()
        await turn(6)
        return sorted(count)

    assert rounds(work, script) == sorted([*KEYS, *KEYS[:2]])
    assert max(most) == 2


def test_a_failed_round_is_taken_again_later_and_later_until_it_succeeds(caplog):
    count = []

    async def work(key):
        count.append(key)
        if len(count) < 4:
            raise RuntimeError("no answer")
        return 30.0

    async def script(queue, clock, turn):
        queue.add(KEYS[0])
        await turn(2)
        for failures in (1, 2, 3):
            assert len(count) == failures
            clock.now += backoff(failures) * 0.9
            await turn(2)
            assert len(count) == failures
            clock.now += backoff(failures) * 0.2
            await turn(2)
        assert len(count) == 4
        clock.now += 29
        await turn(2)
        assert len(count) == 4
        clock.now += 2
        await turn(2)
        return len(count)

    assert rounds(work, script) == 5
    assert "run a/x: RuntimeError: no answer; again in 0.2 s" in caplog.text


def test_the_age_of_the_last_turn_is_the_queues_health():
    async def script(queue, clock, turn):
        await turn()
        clock.now += 40
        before = queue.age
        await turn()
        return before, queue.age

    async def work(key):
        return None

    assert rounds(work, script) == (40, 0)


def test_rounds_that_are_planned_for_later_do_not_wait():
    now = [0.0]

    async def main():
        queue = Queue(lambda _: asyncio.sleep(0, None), clock=lambda: now[0])
        queue.add(KEYS[0])
        queue.add(KEYS[1], delay=30)
        assert (len(queue), queue.num_waiting) == (2, 1)
        now[0] = 30.0
        assert queue.num_waiting == 2

    asyncio.run(main())


def test_run_ends_its_rounds_when_it_is_stopped():
    ended = []

    async def work(key):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(key)

    async def main():
        queue = Queue(work)
        queue.add(KEYS[0])
        task = asyncio.create_task(queue.run())
        while len(queue):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 20))
    assert ended == [KEYS[0]]


def test_failed_rounds_are_counted_by_reason():
    metrics = Metrics()

    async def work(key):
        raise RuntimeError("no answer")

    async def main():
        queue = Queue(work, note_error=metrics.count_error)
        queue.add(KEYS[0])
        await queue.turn()
        await asyncio.gather(*queue._tasks)

    asyncio.run(main())
    assert metrics.registry.get_sample_value("llm360_operator_errors_total", {"reason": "RuntimeError"}) == 1
