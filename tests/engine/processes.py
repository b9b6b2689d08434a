"""Runs that need processes of their own: `python -m tests.engine.processes SCENARIO FOLDER`.

Everything is imported once, before any computation, and every run is a fork of that: starting Python eleven times would
take longer than the runs. Prints one JSON object.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config

from tests.engine.dense import TASKS, dense_config, make_scenes
from tests.engine.helpers import tiny_config, training_losses
from visionattn.engine.checkpoint import newest_intact_checkpoint, read_checkpoint, training_checkpoints
from visionattn.engine.hooks import read_history
from visionattn.engine.train import evaluate, train


def fork(function) -> int:
    """Runs a function in a child; returns its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            function()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def wait(child: int) -> None:
    """Waits for a child and demands that it ended well."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(f"a run ended with status {status}")


def kill(folder: Path) -> dict:
    """Kills a run ten times at random moments, resuming each time, and compares it with an undisturbed one."""
    options = {
        "default_hooks__checkpoint__interval_iters": 1,  # so that many kills strike while a file is written
        "default_hooks__average": {"type": "WeightAverage", "decay": 0.9},
        "train_cfg__max_epochs": 3,
    }
    start = time.time()
    wait(fork(lambda: train(tiny_config(folder / "whole", **options))))
    duration = time.time() - start
    rng = random.Random(5)
    kills, resumed_at = 0, []
    for _ in range(200):
        child = fork(lambda: train(tiny_config(folder / "killed", **options), resume="auto"))
        time.sleep(rng.uniform(0.1, 0.5) * duration)
        if kills == 10:
            wait(child)
            break
        ended = os.waitpid(child, os.WNOHANG)[0]
        if ended:  # ran to the end before its time: start over, so that ten kills really strike
            for path in (folder / "killed").glob("*.pth"):
                path.unlink()
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        written = training_checkpoints(folder / "killed")
        for path in written:
            read_checkpoint(path)  # every file under its final name is whole
        found = newest_intact_checkpoint(folder / "killed")
        resumed_at.append(found[1]["meta"]["iter"] if found else 0)
    return {
        "kills": kills,
        "resumed_at": resumed_at,
        "whole": training_losses(folder / "whole"),
        "killed": training_losses(folder / "killed"),
        "leftovers": [path.name for path in (folder / "killed").glob(".tmp-*")],
    }


def distributed(folder: Path) -> dict:
    """Two processes with half the batch each, as copies (DDP) and sharded (FSDP), and one process with all of it."""
    wait(fork(lambda: train(options_for(folder / "one", 8))))
    for name in ("ddp", "fsdp"):
        port = free_port()
        for child in [fork(partial(rank_run, folder / name, rank, port, name == "fsdp")) for rank in range(2)]:
            wait(child)
    # a sharded run's checkpoint goes on in one process
    wait(fork(lambda: train(options_for(folder / "fsdp", 8, epochs=3), resume="auto")))
    result = {}
    for name in ("one", "ddp", "fsdp"):
        rows = read_history(folder / name / "history.jsonl")
        result[name] = {
            "losses": training_losses(folder / name),
            "top1": [row["val_top1"] for row in rows if "val_top1" in row],
            "val_loss": [row["val_loss"] for row in rows if "val_top1" in row],
        }
    return result


def dense(folder: Path) -> dict:
    """Detection and segmentation in two processes, as copies and sharded; one process evaluates what they leave.

    Three validation images leave one rank a sample short.
    """
    scenes = make_scenes(folder / "scenes")
    result = {}
    for task in TASKS:
        # after a single step there would be nothing to compare
        nearly_right = {"detection": "NearlyRightDetector", "segmentation": "NearlyRightSegmenter"}[task]
        options = {"train_cfg__max_epochs": 1, "model__type": nearly_right}
        for kind in ("ddp", "fsdp"):
            work_dir = folder / f"{task}_{kind}"
            port = free_port()
            config = dense_config(task, scenes, work_dir, **options)
            for child in [fork(partial(dense_rank, config, rank, port, kind == "fsdp")) for rank in range(2)]:
                wait(child)
            wait(fork(partial(dense_evaluation, dense_config(task, scenes, work_dir / "test", **options), work_dir)))
            row = read_history(work_dir / "history.jsonl")[-1]
            result[work_dir.name] = {
                "two": {key[4:]: value for key, value in row.items() if key.startswith("val_")},
                "one": json.loads((work_dir / "one.json").read_text()),
            }
    return result


def dense_rank(config: Config, rank: int, port: int, fsdp: bool) -> None:
    join(rank, port)
    train(config, launcher="pytorch", fsdp=fsdp)
    torch.distributed.destroy_process_group()


def dense_evaluation(config: Config, work_dir: Path) -> None:
    (work_dir / "one.json").write_text(json.dumps(evaluate(config, work_dir / "last.pth")))


def options_for(folder: Path, batch_size: int, epochs: int = 2):
    return tiny_config(
        folder,
        train_dataloader__batch_size=batch_size,
        val_dataloader__dataset__size=17,  # leaves one rank a sample short
        train_cfg__max_epochs=epochs,
        default_hooks__average={"type": "WeightAverage", "decay": 0.5},
        optim_wrapper__accumulative_counts=2,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(rank: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def rank_run(folder: Path, rank: int, port: int, fsdp: bool) -> None:
    join(rank, port)
    train(options_for(folder, 4), launcher="pytorch", fsdp=fsdp)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    json.dump({"kill": kill, "distributed": distributed, "dense": dense}[sys.argv[1]](Path(sys.argv[2])), sys.stdout)
