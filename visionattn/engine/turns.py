"""Benchmarks that prepare side by side, compiling above all, and measure one at a time on a quiet machine."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, TypeVar

__all__ = ["in_turns", "turn"]

Result = TypeVar("Result")


class Gate:
    """Lets several processes prepare at once, or one measure alone.

    Who waits for a turn goes before who wants to prepare, so that the processes measure one after the other as soon as
    all of them are ready, and then prepare together again.
    """

    def __init__(self, context: BaseContext):
        self.changed = context.Condition()
        self.preparing, self.waiting, self.measuring = (context.Value("i", 0, lock=False) for _ in range(3))

    @contextmanager
    def prepare(self) -> Iterator[None]:
        with self.changed:
            self._start_preparing()
        try:
            yield
        finally:
            with self.changed:
                self._stop_preparing()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """To be entered while preparing; the preparations go on afterwards."""
        with self.changed:
            self._stop_preparing()
            self.waiting.value += 1
            self.changed.wait_for(lambda: not self.preparing.value and not self.measuring.value)
            self.waiting.value -= 1
            self.measuring.value = 1
        try:
            yield
        finally:
            with self.changed:
                self.measuring.value = 0
                self.changed.notify_all()
                self._start_preparing()

    def _start_preparing(self) -> None:
        self.changed.wait_for(lambda: not self.waiting.value and not self.measuring.value)
        self.preparing.value += 1

    def _stop_preparing(self) -> None:
        self.preparing.value -= 1
        self.changed.notify_all()


_gate: Optional[Gate] = None


def turn() -> AbstractContextManager[Any]:
    """What a measurement holds while it runs: no other process of `in_turns` does anything meanwhile."""
    return _gate.turn() if _gate else nullcontext()


def _share(gate: Gate) -> None:
    global _gate
    _gate = gate


def _run(measure: Callable[..., Result], arguments: Sequence[Any]) -> Result:
    with _gate.prepare():
        return measure(*arguments)


def in_turns(measure: Callable[..., Result], calls: Sequence[Sequence[Any]], jobs: int) -> Iterator[Tuple[int, Result]]:
    """Calls a function once per list of arguments, in several processes that take turns where it says `turn()`.

    Args:
        measure: A function of a module, so that other processes find it.
        calls: Arguments of each call; they and the results are pickled.
        jobs: Processes; with one the calls run here.

    Yields:
        Position of a call and its result, as they are done.

    Raises:
        ValueError: jobs below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield from ((position, measure(*arguments)) for position, arguments in enumerate(calls))
        return
    context = get_context("spawn")  # a forked process can't use CUDA
    with ProcessPoolExecutor(jobs, context, _share, (Gate(context),)) as pool:
        futures = {pool.submit(_run, measure, arguments): position for position, arguments in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.result()
