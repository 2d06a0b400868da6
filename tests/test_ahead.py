"""Does work done ahead come in order, and stop when nobody wants it any more?"""

from __future__ import annotations

import threading
import time

import pytest

from ena24ssd.ahead import run_ahead


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_results_come_in_the_order_of_the_items(workers):
    def work(item):
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(run_ahead(work, range(50), workers)) == [item * item for item in range(50)]
    assert list(run_ahead(work, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_surfaces_at_its_turn(workers):
    def work(item):
        if item == 3:
            raise KeyError(item)
        return item

    results = run_ahead(work, range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_no_more_than_two_items_a_worker_are_taken_ahead():
    taken = []
    results = run_ahead(lambda item: item, (taken.append(item) or item for item in range(1000)), 3)
    next(results)
    assert len(taken) <= 7
    results.close()


def test_who_stops_listening_waits_only_for_what_is_under_way():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.02)

    results = run_ahead(work, range(1000), 2, "counted")
    next(results)
    results.close()
    assert len(begun) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("counted")]


def test_an_interrupt_while_items_are_handed_out_ends_it_soon():
    begun = []

    def interrupted():
        yield from range(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_ahead(begun.append, interrupted(), 2))
    assert len(begun) <= 10
