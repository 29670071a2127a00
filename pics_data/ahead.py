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

    No read is begun while the results that wait for their turn have a `size` of `max_size` or more in all. What `read`
    raises, the future's `result` raises. Closing the iterator drops what is not begun yet.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            while len(waiting) > depth or sum(_size(future, size) for _, future in waiting) >= max_size:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # What is being read just now ends on its own: a store that answers late must not hold up an error.
        pool.shutdown(wait=False, cancel_futures=True)


def _size(future: "Future[R]", size: Callable[[R], int]) -> int:
    return size(future.result()) if future.done() and not future.exception() else 0
