"""Hooks of the training loop: averaged weights, checkpoints, log and progress."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

import torch
from mmengine.dist import all_reduce, all_reduce_params, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor
from torch.distributed.tensor import DTensor

from visionattn.engine import checkpoint as files

__all__ = ["CheckpointWriter", "ProgressBar", "RunLog", "WeightAverage", "mean_over_ranks"]


@torch.no_grad()
def mean_over_ranks(buffers: Iterable[Tensor]) -> None:
    """Makes buffers equal on all ranks, in place: each rank's batch norms have the statistics of its own samples."""
    if is_distributed():
        all_reduce_params([buffer for buffer in buffers if buffer.is_floating_point()], op="mean")


@HOOKS.register_module()
class WeightAverage(Hook):
    """Exponential moving average of the weights, used for validation and for the weights that checkpoints offer.

    Args:
        decay: Weight of the old average at each optimizer step.
        warmup: Let the decay rise as `(1 + step) / (10 + step)` at first, so that short runs forget their start.

    Raises:
        ValueError: a decay outside (0, 1).
    """

    priority = "NORMAL"

    def __init__(self, decay: float = 0.9998, warmup: bool = False):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        self.decay = decay
        self.warmup = warmup
        self.average: Optional[Dict[str, Tensor]] = None

    def before_train(self, runner) -> None:
        if self.average is None:  # else it was resumed
            self.average = {name: value.detach().clone() for name, value in runner.net.state_dict().items()}

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not runner.optim_wrapper.should_update():
            return
        step = (runner.iter + 1) // runner.optim_wrapper.accumulative_counts
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        values = runner.net.state_dict()
        floating = [name for name in values if values[name].is_floating_point()]
        sharded = [name for name in floating if isinstance(values[name], DTensor)]
        for names in (sharded, [name for name in floating if name not in set(sharded)]):  # buffers are never sharded
            if names:
                torch._foreach_lerp_([self.average[k] for k in names], [values[k] for k in names], 1 - decay)
        for name in values.keys() - set(floating):
            self.average[name].copy_(values[name])

    def after_train_epoch(self, runner) -> None:
        mean_over_ranks([self.average[name] for name, _ in runner.net.named_buffers() if name in self.average])

    @torch.no_grad()
    def _swap(self, runner) -> None:
        for name, value in runner.net.state_dict().items():
            trained = value.clone()
            value.copy_(self.average[name])
            self.average[name].copy_(trained)

    def before_val_epoch(self, runner) -> None:
        if self.average is not None:
            self._swap(runner)

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        if self.average is not None:
            self._swap(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint["train_state_dict"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = dict(self.average)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        own = runner.net.state_dict()
        average = checkpoint["state_dict"]
        checkpoint["state_dict"] = checkpoint.get("train_state_dict", average)
        self.average = {name: files.shard_like(average[name].clone(), own[name]) for name in own}


@HOOKS.register_module()
class CheckpointWriter(Hook):
    """Writes `iter_N.pth`, `last.pth` and `best.pth` (see visionattn.engine.checkpoint), each atomically.

    Args:
        interval: Epochs between training checkpoints; the last epoch is always saved. An epoch's checkpoint is
            written after its validation, so that no resumed run misses one.
        interval_iters: Also save every so many iterations within an epoch; a multiple of the gradient accumulation.
        keep: Training checkpoints to keep.
        best: Validation metric for `best.pth`; higher is better unless its name contains "loss". None: no best.pth.

    Raises:
        ValueError: an argument below 1.
    """

    priority = "VERY_LOW"  # after every hook that changes state

    def __init__(
        self, interval: int = 1, interval_iters: Optional[int] = None, keep: int = 2, best: Optional[str] = "top1"
    ):
        for name, value in {"interval": interval, "interval_iters": interval_iters or 1, "keep": keep}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.interval = interval
        self.interval_iters = interval_iters
        self.keep = keep
        self.metric = best
        self.best: Optional[float] = None
        self.candidate: Optional[float] = None

    def before_train(self, runner) -> None:
        if is_main_process():
            for leftover in Path(runner.work_dir).glob(f"{files.TEMPORARY}*"):
                leftover.unlink(missing_ok=True)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.best = checkpoint["meta"].get("best")

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        if self.metric is None:
            return
        if self.metric not in metrics:
            raise ValueError(f"best={self.metric!r} is none of the validation metrics: {', '.join(metrics)}")
        self.candidate = metrics[self.metric]

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = runner.iter + 1
        ends_epoch = batch_idx + 1 == len(runner.train_dataloader)
        if self.interval_iters and done % self.interval_iters == 0 and not ends_epoch:
            self._save(runner, runner.training_state(runner.epoch, done, self.best))

    def after_epoch(self, runner) -> None:
        """Called by EpochLoop after an epoch and its validation."""
        better = self.candidate is not None and (self.best is None or self._better(self.candidate, self.best))
        due = runner.epoch % self.interval == 0 or runner.epoch == runner.max_epochs
        if better:
            self.best = self.candidate
        self.candidate = None
        if not (better or due):
            return
        state = runner.training_state(runner.epoch, runner.iter, self.best)
        if better and is_main_process():  # first: a kill in between then only repeats this epoch
            files.atomic_save({key: state[key] for key in ("state_dict", "meta")}, Path(runner.work_dir, "best.pth"))
        if due:
            self._save(runner, state)

    def _better(self, value: float, than: float) -> bool:
        return value < than if "loss" in self.metric else value > than

    def _save(self, runner, state: Dict[str, Any]) -> None:
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        path = folder / f"iter_{state['meta']['iter']}.pth"
        files.atomic_save(state, path)
        files.atomic_link(folder / files.LAST, path.name)
        older = [p for p in files.training_checkpoints(folder) if p != path]
        for old in older[: max(0, len(older) - self.keep + 1)]:
            old.unlink(missing_ok=True)


@HOOKS.register_module()
class RunLog(Hook):
    """Log lines, TensorBoard scalars, `history.jsonl` and `curves.png` in the work folder.

    Losses are means over the ranks and over the iterations since the last line. The history of a resumed run is cut
    back to the checkpoint, so every iteration is in it once.

    Args:
        interval: Iterations between lines; the last iteration of an epoch always gives one.
    """

    priority = "BELOW_NORMAL"  # after the schedulers' and the average's hooks, before the checkpoint's

    def __init__(self, interval: int = 50):
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        self.interval = interval
        self.resumed_iter = 0

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.resumed_iter = checkpoint["meta"]["iter"]

    def before_train(self, runner) -> None:
        self.path = Path(runner.work_dir, "history.jsonl")
        if is_main_process():
            rows = [row for row in read_history(self.path) if row["iter"] <= self.resumed_iter]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            files.atomic_write(self.path, lambda file: file.write(text.encode()))
        self.started, self.start_iter = time.time(), runner.iter
        self.drawn = self.started

    def before_train_epoch(self, runner) -> None:
        self._restart_window()

    def _restart_window(self) -> None:
        self.loss, self.count, self.data_time, self.window_start = 0.0, 0, 0.0, time.time()
        self.last_end = self.window_start

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        self.data_time += time.time() - self.last_end
        self.lr = runner.optim_wrapper.get_lr()["lr"][-1]

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.loss = self.loss + outputs["loss"].detach().double()
        self.count += 1
        self.last_end = time.time()
        length = len(runner.train_dataloader)
        if (batch_idx + 1) % self.interval and batch_idx + 1 != length:
            return
        loss = self.loss / self.count
        all_reduce(loss, "mean")
        seconds = (time.time() - self.window_start) / self.count
        done = runner.iter + 1
        pace = (time.time() - self.started) / (done - self.start_iter)  # validation included
        row: Dict[str, Any] = {"iter": done, "epoch": runner.epoch + 1, "train_loss": loss.item(), "lr": self.lr}
        if runner.optim_wrapper.grad_norm is not None:
            row["grad_norm"] = runner.optim_wrapper.grad_norm.item()
        row.update(time=seconds, data_time=self.data_time / self.count)
        if torch.cuda.is_available():
            row["memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        self._record(runner, row)
        eta = time.strftime("%H:%M:%S", time.gmtime(pace * (runner.max_iters - done)))
        shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("iter", "epoch"))
        runner.logger.info(
            f"epoch {runner.epoch + 1}/{runner.max_epochs}  {batch_idx + 1}/{length}  {shown}  eta {eta}"
        )
        self._restart_window()

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        self._record(
            runner, {"iter": runner.iter, "epoch": runner.epoch, **{f"val_{k}": v for k, v in metrics.items()}}
        )
        shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        runner.logger.info(f"validation after epoch {runner.epoch}: {shown}")
        if time.time() - self.drawn > 60:
            self._draw(runner)

    def after_test_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        runner.logger.info("test: " + "  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def after_train(self, runner) -> None:
        self._draw(runner)
        runner.visualizer.close()

    def _record(self, runner, row: Dict[str, Any]) -> None:
        if is_main_process():
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
            runner.visualizer.add_scalars({k: v for k, v in row.items() if k != "iter"}, step=row["iter"])

    def _draw(self, runner) -> None:
        if is_main_process():
            from visionattn.engine.figures import draw_curves

            draw_curves(read_history(self.path), self.path.with_name("curves.png"))
        self.drawn = time.time()


def read_history(path: os.PathLike) -> List[Dict[str, Any]]:
    """Rows of a `history.jsonl`, without a last line that a kill cut short; empty if there is no file."""
    rows = []
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


@HOOKS.register_module()
class ProgressBar(Hook):
    """One bar for the whole training on a terminal, below the log lines; nothing where the output is not a terminal."""

    priority = "LOWEST"

    def __init__(self):
        self.progress = None
        self.shown: Dict[str, str] = {}

    def before_train(self, runner) -> None:
        if not (is_main_process() and sys.stdout.isatty()):
            return
        from rich import progress

        self.progress = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            progress.BarColumn(None),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[shown]}"),
        )
        self.progress.start()
        self.task = self.progress.add_task(
            "",
            total=runner.max_iters,
            completed=runner.iter,
            epoch=runner.epoch + 1,
            epochs=runner.max_epochs,
            shown="",
        )
        # the log goes through the bar's console, or each line would tear the bar
        self.handlers = [h for h in runner.logger.handlers if type(h) is logging.StreamHandler]
        self.streams = [handler.setStream(sys.stdout) for handler in self.handlers]

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.progress is not None:
            if batch_idx % 10 == 0:  # reading a loss waits for the device
                self.shown["loss"] = f"{outputs['loss'].item():.3f}"
            self._update(runner, completed=runner.iter + 1, epoch=runner.epoch + 1)

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        if self.progress is not None and metrics:
            name, value = next(iter(metrics.items()))  # metrics name what matters most first
            self.shown[name] = f"{value:.2f}"
            self._update(runner)

    def _update(self, runner, **fields: Any) -> None:
        self.progress.update(self.task, shown="  ".join(f"{k} {v}" for k, v in self.shown.items()), **fields)

    def after_train(self, runner) -> None:
        if self.progress is not None:
            self.progress.stop()
            for handler, stream in zip(self.handlers, self.streams):
                handler.setStream(stream)
            self.progress = None
