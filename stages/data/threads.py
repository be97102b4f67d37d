"""A loop over files or batches of files, in threads that work ahead of it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any


def in_threads(
    function: Callable[[Any], Any], items: Iterable[Any], num_workers: int, ahead: int | None = None
) -> Iterator[Any]:
    """`map` in threads; at most `ahead` items, or two per thread, are submitted ahead, so memory stays bounded."""
    if num_workers == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(rest, ahead or 2 * num_workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
