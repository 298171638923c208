"""Threads that take turns at calls."""

from __future__ import annotations

import threading
import time

import pytest

from savefmt.pool import Pool


def test_results_and_errors_come_to_who_asks() -> None:
    pool = Pool(2, "test-pool")
    tasks = [pool.submit(divmod, 7, by) for by in (2, 0, 3)]

    assert tasks[2].result() == (2, 1)
    assert tasks[0].result() == tasks[0].result() == (3, 1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            tasks[1].result()
    assert all(task.done() for task in tasks)
    pool.shutdown()


def test_no_more_threads_than_wanted_and_none_in_the_end() -> None:
    seen: set[int] = set()
    pool = Pool(3, "test-pool")
    tasks = [pool.submit(lambda: seen.add(threading.get_ident())) for _ in range(50)]
    pool.shutdown()
    pool.shutdown()

    assert all(task.done() for task in tasks)
    assert 1 <= len(seen) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name == "test-pool"]


def test_what_has_not_begun_can_be_cancelled() -> None:
    begun, may_end = threading.Event(), threading.Event()
    made: list[str] = []

    def first() -> None:
        begun.set()
        may_end.wait()
        made.append("first")

    pool = Pool(1, "test-pool")
    pool.submit(first)
    begun.wait()
    pool.submit(made.append, "second").cancel()
    pool.submit(made.append, "third")
    waiting = pool.submit(made.append, "fourth")
    assert not waiting.done()
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel": True})
    ending.start()
    while waiting._call is not None:
        time.sleep(0.001)
    may_end.set()
    ending.join()

    assert made == ["first"]
    assert waiting.done() is False
