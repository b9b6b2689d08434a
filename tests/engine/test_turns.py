"""Processes that take turns at measuring."""

import itertools
import time

import pytest

from visionattn.engine.turns import in_turns, turn


def hold_turn(index: int, seconds: float) -> tuple:
    with turn():
        start = time.monotonic()
        time.sleep(seconds)
        return index, start, time.monotonic()


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_name_their_calls_and_turns_do_not_overlap(jobs: int):
    results = dict(in_turns(hold_turn, [(i, 0.05) for i in range(4)], jobs))
    assert {position: index for position, (index, _, _) in results.items()} == {i: i for i in range(4)}
    ordered = sorted((start, end) for _, start, end in results.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))


def test_no_jobs_is_refused():
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        list(in_turns(hold_turn, [(0, 0.0)], 0))
