"""Work on batches in several processes, results in the order of the batches."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

from riskalign.errors import InputError

In = TypeVar("In")
Out = TypeVar("Out")

_PARALLEL = "TOKENIZERS_PARALLELISM"
_WORK: list[Callable[[Any], Any]] = []  # of a process that works for another


def in_order(
    work: Callable[[In], Out], batches: Iterable[In], num_proc: int | None
) -> Iterator[Out]:
    """What `work` makes of each batch; with `num_proc` above 1, in so many processes.

    Batches are taken as they are needed, so that few are in memory at a time, and the first error
    in their order is raised. Raises `InputError` for a process that ends by itself.
    """
    if num_proc is None or num_proc == 1:
        yield from map(work, batches)
        return
    if multiprocessing.current_process().daemon:
        raise InputError("dataset_num_proc: a daemonic process may start no others. Leave it out.")
    # A fork has all modules already, and needs no guard in the caller's script.
    forks = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forks else None)
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"  # else each process would take all cores, or a fork warn of it
    waiting: deque[Future[Out]] = deque()
    pool = ProcessPoolExecutor(num_proc, context, _begin, (work,))
    try:
        for batch in _or_error(batches):
            if isinstance(batch, _Failed):
                while waiting:  # an error in batches before it comes first
                    yield waiting.popleft().result()
                raise batch.error
            waiting.append(pool.submit(_do, batch))
            if len(waiting) > 2 * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            f"dataset_num_proc: one of {num_proc} processes ended by itself, perhaps for want of "
            "memory. Lower it."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


class _Failed(NamedTuple):
    """In place of a batch, what taking it raised."""

    error: Exception


def _or_error(batches: Iterable[In]) -> Iterator[In | _Failed]:
    try:
        yield from batches
    except Exception as error:
        yield _Failed(error)


def _begin(work: Callable[[Any], Any]) -> None:
    _WORK[:] = [work]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with the one that it works for, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _do(batch: Any) -> Any:
    return _WORK[0](batch)
