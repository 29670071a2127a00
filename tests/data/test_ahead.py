"""Reading ahead: in order, no further than told, and over when its reader is."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pics_data.ahead import read_ahead

PREFIX = "read-ahead"


def wait_for_threads_to_end() -> None:
    until = time.monotonic() + 10
    while any(thread.name.startswith(PREFIX) for thread in threading.enumerate()):
        assert time.monotonic() < until, "threads of a closed reader are still there"
        time.sleep(0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_results_come_in_order_whoever_is_first(delays: list[int], depth: int) -> None:
    def read(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 2000)
        return item[0] ** 2

    items = list(enumerate(delays))
    made = [(item, future.result()) for item, future in read_ahead(items, read, depth)]
    assert made == [(item, item[0] ** 2) for item in items]


def test_it_reads_as_far_ahead_as_told_and_at_the_same_time() -> None:
    begun = threading.Semaphore(0)
    numbers: list[int] = []
    together = threading.Barrier(4, timeout=10)

    def read(item: int) -> int:
        numbers.append(item)
        begun.release()
        if item < 4:
            together.wait()  # passes only if four reads are under way at once
        return item

    reader = read_ahead(count(), read, 4)
    for current in range(10):
        item, future = next(reader)
        assert future.result() == item == current
        for _ in range(5 if current == 0 else 1):
            assert begun.acquire(timeout=10)
        assert sorted(numbers) == list(range(current + 5))  # this one and four more
    reader.close()
    wait_for_threads_to_end()


def test_what_waits_is_bounded_in_size() -> None:
    begun: list[int] = []

    def read(item: int) -> bytes:
        begun.append(item)
        return bytes(100)

    for item, future in read_ahead(range(40), read, 8, size=len, max_size=250):
        future.result()
        ahead = len(begun) - item - 1
        assert ahead <= 8
        if item > 8:  # how large results are is known by now
            assert ahead <= 3
    assert len(begun) == 40


def test_an_error_is_its_own_items_alone() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise FileNotFoundError("gone")
        return item

    made = []
    for item, future in read_ahead(range(5), read, 3, size=lambda number: number, max_size=1000):
        if item == 2:
            with pytest.raises(FileNotFoundError, match="gone"):
                future.result()
        else:
            made.append(future.result())
    assert made == [0, 1, 3, 4]


def test_a_closed_reader_begins_nothing_more() -> None:
    begun: list[int] = []
    free = threading.Event()

    def read(item: int) -> int:
        begun.append(item)
        free.wait(10)
        return item

    reader = read_ahead(range(100), read, 2)
    next(reader)  # 0 to 2 are asked for, two threads take one each
    while len(begun) < 2:
        time.sleep(0.001)
    reader.close()
    free.set()
    wait_for_threads_to_end()
    assert sorted(begun) == [0, 1]


def test_an_error_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("of the items")

    with pytest.raises(ValueError, match="of the items"):
        list(read_ahead(items(), str, 4))
    wait_for_threads_to_end()
