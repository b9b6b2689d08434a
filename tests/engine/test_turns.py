"""Processes that take turns at measuring."""

import itertools
import time

import pytest

from visionattn.engine.turns import in_turns, turn


def prepare_and_hold_turn(index: int, seconds: float) -> dict:
    """Spans of time: preparing, holding the turn, preparing again, holding it again."""
    spans = {"prepare": [], "turn": []}
    for _ in range(2):
        start = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        spans["prepare"].append((start, end))
        with turn():
            start = time.monotonic()
            time.sleep(seconds)
            spans["turn"].append((start, time.monotonic()))
    return {"index": index, **spans}


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_name_their_calls_and_nothing_runs_beside_a_turn(jobs: int):
    results = dict(in_turns(prepare_and_hold_turn, [(i, 0.03 * (i + 1)) for i in range(5)], jobs))
    assert {position: found["index"] for position, found in results.items()} == {i: i for i in range(5)}
    turns = sorted(span for found in results.values() for span in found["turn"])
    others = [span for found in results.values() for span in found["prepare"]]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(turns))
    overlaps = [(a, b) for a in turns for b in others if max(a[0], b[0]) < min(a[1], b[1])]
    assert not overlaps
    beside = [1 for a, b in itertools.combinations(others, 2) if max(a[0], b[0]) < min(a[1], b[1])]
    assert bool(beside) == (jobs > 1)


def fail(index: int) -> int:
    if index == 1:
        raise RuntimeError("out of memory")
    with turn():
        return index


def test_a_failure_reaches_the_caller_and_blocks_nobody():
    with pytest.raises(RuntimeError, match="out of memory"):
        dict(in_turns(fail, [(i,) for i in range(4)], 2))


def test_no_jobs_is_refused():
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        list(in_turns(fail, [(0,)], 0))
