"""What may be worked on before anybody asks for it?

`run_ahead` hands out the results of many small jobs in their order, while threads are at work on the next few. Memory
does not grow with the number of jobs, and who stops listening, or is interrupted, waits only for those under way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""What shows how far work has come: it wraps a list of items, as tqdm does, and gives them out again one by one."""


def run_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    name: str = "ahead",
    lead: int | None = None,
) -> Iterator[Result]:
    """``work(item)`` for every item, in order, up to ``lead`` items ahead of whoever iterates (two per worker).

    Parameters: ``workers`` threads (left out: one a core; 0: none, everything happens when it is asked for), called
    ``name``. An exception of ``work`` surfaces at its item's turn.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers == 0:
        yield from map(work, items)
        return
    lead = 2 * workers if lead is None else lead
    with ThreadPoolExecutor(workers, thread_name_prefix=name) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > lead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
