"""Benchmarks that prepare side by side, compiling above all, and measure one at a time."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from typing import Any, Callable, Iterator, Sequence, Tuple, TypeVar

__all__ = ["in_turns", "turn"]

Result = TypeVar("Result")
_turn: AbstractContextManager[Any] = nullcontext()


def turn() -> AbstractContextManager[Any]:
    """What a measurement holds while it runs: no other process of `in_turns` measures meanwhile."""
    return _turn


def _share(lock: AbstractContextManager[Any]) -> None:
    global _turn
    _turn = lock


def in_turns(measure: Callable[..., Result], calls: Sequence[Sequence[Any]], jobs: int) -> Iterator[Tuple[int, Result]]:
    """Calls a function once per list of arguments, in several processes that take turns where it says `turn()`.

    Args:
        measure: A function of a module, so that other processes find it.
        calls: Arguments of each call; they and the results are pickled.
        jobs: Processes; with one the calls run here.

    Yields:
        Position of a call and its result, as they are done: what takes long holds nothing back.

    Raises:
        ValueError: jobs below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield from ((position, measure(*arguments)) for position, arguments in enumerate(calls))
        return
    context = get_context("spawn")  # a forked process can't use CUDA
    with ProcessPoolExecutor(jobs, context, _share, (context.Lock(),)) as pool:
        futures = {pool.submit(measure, *arguments): position for position, arguments in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.result()
