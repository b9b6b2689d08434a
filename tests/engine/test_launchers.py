"""Process groups from the environment of slurm's srun; torchrun's are what the other tests of processes use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.processes import free_port
from visionattn.engine.mmengine_compat import first_host, slurm_environment

ROOT = Path(__file__).parents[2]
TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-10]"}
JOIN = """
import json, torch
from visionattn.engine.mmengine_compat import init_distributed
init_distributed("slurm")
value = torch.tensor([torch.distributed.get_rank() + 1.0])
torch.distributed.all_reduce(value)
print(json.dumps([torch.distributed.get_rank(), torch.distributed.get_world_size(), value.item()]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("changes", "address", "port"),
    [
        ({}, "gpu07", "20000"),
        ({"SLURM_JOB_ID": "1234567"}, "gpu07", "24567"),
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, "10.0.0.1", "29500"),
        ({"SLURM_STEP_NODELIST": "", "SLURM_NODELIST": "one"}, "one", "20000"),
    ],
)
def test_variables(changes, address, port):
    expected = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": address, "MASTER_PORT": port}
    assert slurm_environment({**TASK, **changes}) == expected


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("gpu[01-04,07],node2", "gpu01"),
        ("gpu[3,5-9]", "gpu3"),
        ("rack[2-3]-node[001-100].local,x", "rack2-node001.local"),
    ],
)
def test_first_host(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("gone", "named"), [("SLURM_PROCID", "SLURM_PROCID"), ("SLURM_STEP_NODELIST", "SLURM_STEP_NODELIST")]
)
def test_missing_variables(gone, named):
    with pytest.raises(ValueError, match=f"needs the environment of srun .* not set: {named}"):
        slurm_environment({name: value for name, value in TASK.items() if name != gone})


def test_two_tasks_join():
    """As srun would start them."""
    task = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    base = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_"))}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            cwd=ROOT,
            env={**base, **task, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [json.loads(run.communicate(timeout=300)[0].splitlines()[-1]) for run in runs]
    finally:
        for run in runs:  # the other one waits for what has failed
            run.kill()
    assert outputs == [[0, 2, 3.0], [1, 2, 3.0]]
