"""Kills, and several processes; the runs themselves are in processes.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def scenario(name: str, folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.processes", name, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_ten_times_gives_the_same_run(tmp_path):
    result = scenario("kill", tmp_path)
    assert result["kills"] == 10
    assert max(result["resumed_at"]) > 0
    assert result["killed"] == result["whole"]
    assert result["leftovers"] == []


def test_two_processes_equal_one(tmp_path):
    runs = scenario("distributed", tmp_path)
    one = runs["one"]
    assert len(one["losses"]) == 12
    for kind in ("ddp", "fsdp"):
        two = runs[kind]
        for iteration, loss in one["losses"].items():
            assert two["losses"][iteration] == pytest.approx(loss, rel=2e-4), (kind, iteration)
        assert two["top1"][:2] == pytest.approx(one["top1"], abs=1e-4), kind
        assert two["val_loss"][:2] == pytest.approx(one["val_loss"], rel=1e-3), kind
    assert sorted(map(int, runs["fsdp"]["losses"])) == list(range(1, 19))  # the third epoch ran in one process


def test_dense_evaluation_in_two_processes_equals_one(tmp_path):
    runs = scenario("dense", tmp_path)
    assert len(runs) == 4
    for name, scores in runs.items():
        assert scores["two"] == pytest.approx(scores["one"], rel=1e-4), name
        first = next(iter(scores["one"].values()))
        assert 0 < first < 100, name
