"""Reading ahead: the next files come in while the CPU works on this one."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    items: Iterable[T],
    read: Callable[[T], R],
    depth: int,
    size: Callable[[R], int] = lambda _: 0,
    max_size: int = 1,
) -> Generator[tuple[T, "Future[R]"], None, None]:
    """Each of `items` in order, with the future of `read(item)`: threads begin with up to `depth` items beforehand.

    No read is begun while the results that wait for their turn have a `size` of `max_size` or more in all; those under
    way count as much as the largest so far. What `read` raises, the future's `result` raises. Closing the iterator
    drops what is not begun yet.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    largest = 0

    def total_size() -> int:
        nonlocal largest
        ended = [future for _, future in waiting if future.done()]
        sizes = [size(future.result()) for future in ended if not future.exception()]
        largest = max([largest, *sizes])
        return sum(sizes) + largest * (len(waiting) - len(ended))

    pool = ThreadPoolExecutor(depth, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            while len(waiting) > depth or total_size() >= max_size:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # What is being read just now ends on its own: a store that answers late must not hold up an error.
        pool.shutdown(wait=False, cancel_futures=True)
