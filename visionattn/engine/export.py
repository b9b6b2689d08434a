"""Exporting backbones and classifiers: torch.export programs and ONNX models that need nothing of this library.

Attention is exported in its reference form, plain tensor operations. A file appears under its name only after what was
written has been loaded again and has given what the model itself gives, also at other sizes where those are free.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import timm
import torch
from timm.layers import set_exportable
from torch import Tensor, nn

from visionattn.checkpoint import load_checkpoint_file
from visionattn.downstream import FeaturePyramid
from visionattn.engine.checkpoint import CheckpointError, atomic_write, first_line, load_weights
from visionattn.engine.classifier import create_net
from visionattn.engine.config import model_data_config

__all__ = ["FORMATS", "ExportError", "ExportReport", "build_model", "export_model"]

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
INPUT = "images"
AXES = ("batch", "channels", "height", "width")
TOLERANCE = 1e-3  # of a difference's norm over the output's; float32 networks of forty blocks stay below 1e-4


class ExportError(ValueError):
    """A model that can't be exported as asked, or whose exported form gives something else."""


class ExportReport(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        outputs: Name to shape, where free sizes are the exporter's expressions.
        checked: Shapes of images with which it gives what the model gives.
        refused: Shapes with which it does not, of those that an export with free sizes need not take.
        error: Largest norm of a difference over the norm of the output.
    """

    path: Path
    outputs: Dict[str, List[Union[int, str]]]
    checked: List[Tuple[int, ...]]
    refused: List[Tuple[int, ...]]
    error: float


def build_model(
    name: str,
    pyramid: bool = True,
    checkpoint: Union[str, os.PathLike, None] = None,
    out_indices: Optional[Sequence[int]] = None,
    exportable: bool = False,
    **model_args: Any,
) -> nn.Module:
    """A backbone's pyramid of maps, or a classifier, in eval mode.

    Args:
        name: Model of timm, ours included.
        pyramid: The maps of its stages (`visionattn.downstream.FeaturePyramid`) instead of logits.
        checkpoint: Weights as released, or ours; random ones from seed 0 if None.
        out_indices: Stages of the pyramid, all four or fewer by default.
        exportable: Choose native operators in place of ours.
        **model_args: Of the model, such as `num_classes` or `dilations`.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an unknown model, or a checkpoint or stages of another one.
    """
    model_data_config(name)  # an unknown name
    with torch.random.fork_rng(devices=[]), set_exportable(exportable):
        torch.manual_seed(0)
        if not pyramid:
            net = create_net(name, **model_args)
            if checkpoint is not None:
                load_weights(net, checkpoint)
            return net.eval()
        if out_indices is None:
            out_indices = range(len(timm.create_model(name, device="meta", **model_args).feature_info))[-4:]
        net = FeaturePyramid(name, out_indices=out_indices, **model_args)
    if checkpoint is not None:
        content = load_checkpoint_file(checkpoint)
        try:
            net.load_released(content)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint}: {error}") from error
    return net.eval()


class FlatOutput(nn.Module):
    """A model whose output is a tuple: of one tensor, or of its list of them."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        out = self.net(images)
        return (out,) if isinstance(out, Tensor) else tuple(out)


@torch.no_grad()
def export_model(
    name: str,
    target: Union[str, os.PathLike],
    format: str = "onnx",
    img_size: Union[int, Tuple[int, int], None] = None,
    batch_size: int = 1,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> ExportReport:
    """Exports a model and compares the file's outputs with the model's.

    Args:
        name: Model of timm, ours included.
        target: `.pt2` for torch, `.onnx` for ONNX.
        format: "torch", a `torch.export` program for `torch.export.load`, or "onnx".
        img_size: Height and width of the images, or one number; the model's own by default.
        batch_size: Images at a time.
        dynamic_batch: Take any number of images from 1 on instead.
        dynamic_size: Take images of other sizes, too. Where attention pads maps below its window, sizes can't be free
            across that border: with a large enough `img_size` all sizes are that fill every window.
        overwrite: Replace an existing target.
        **options: Of `build_model`.

    Raises:
        FileNotFoundError: no such checkpoint.
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ExportError: sizes that the model can't leave free, or outputs that differ from the model's.
        ValueError: an unknown model or format, another suffix, an existing target, or bad sizes.
    """
    target = Path(target)
    if format not in FORMATS:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, got {format!r}")
    if target.suffix != FORMATS[format]:
        raise ValueError(f"target must end in {FORMATS[format]} for format {format}, got {target}")
    if target.exists() and not overwrite:
        raise ValueError(f"target {target} exists; --overwrite replaces it")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if format == "onnx":
        require_onnx()
    model = FlatOutput(build_model(name, exportable=True, **options))
    eager = FlatOutput(build_model(name, **options))
    height, width = image_sides(name, img_size)
    channels = options.get("in_chans", model_data_config(name)["input_size"][0])
    # A batch of one would be taken for a constant.
    count = max(batch_size, 2) if dynamic_batch else batch_size
    shape = (count, channels, height, width)
    program = trace(model, shape, dynamic_batch, dynamic_size)
    required, optional = [shape], []
    if dynamic_batch:
        required += [(1, *shape[1:]), (count + 1, *shape[1:])]
    if dynamic_size:
        required.append((count, channels, height + 32, width + 64))
        optional += [(count, channels, height + 45, width + 3), (count, channels, 32, 32)]
    return write_checked(program, target, format, eager, required, optional)


def image_sides(name: str, img_size: Union[int, Tuple[int, int], None]) -> Tuple[int, int]:
    """Height and width of the images to export for."""
    if img_size is None:
        return tuple(model_data_config(name)["input_size"][1:])
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"img_size must be a positive int or (height, width), got {img_size!r}")
    return sides


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def trace(
    model: nn.Module, shape: Sequence[int], dynamic_batch: bool = False, dynamic_size: bool = False
) -> torch.export.ExportedProgram:
    """The `torch.export` program of a model, for images of a shape.

    Raises:
        ExportError: sizes that the model can't leave free, or operators that only this library has.
    """
    free: Dict[int, Any] = {}
    if dynamic_batch:
        free[0] = torch.export.Dim("batch", min=1)
    if dynamic_size:
        free.update({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC})
    try:
        with quiet():
            program = torch.export.export(model, (random_images(*shape),), dynamic_shapes=(free,) if free else None)
    except Exception as error:  # whatever the tracer meets
        fixed = re.findall(r"You marked .*size\(\)\[(\d)\] as dynamic but your code specialized", str(error))
        if fixed:
            axes = " and ".join(AXES[int(axis)] for axis in fixed)
            raise ExportError(f"{axes} can't be free: the model fixes what images {list(shape)} have") from error
        raise ExportError(f"torch.export can't follow the model: {first_line(error)}") from error
    own = sorted({str(node.target) for node in program.graph.nodes if "visionattn" in str(node.target)})
    if own:
        raise ExportError(f"the model has operators of visionattn that have no native form: {', '.join(own)}")
    return program


def output_shapes(model: FlatOutput, program: torch.export.ExportedProgram) -> Dict[str, List[Union[int, str]]]:
    """The program's outputs: "logits", or "stride4" and so on."""
    strides = getattr(model.net, "strides", None)
    names = ["logits"] if strides is None else [f"stride{stride}" for stride in strides]
    if len(set(names)) < len(names):  # isotropic networks
        names = [f"{name}_stage{stage}" for name, stage in zip(names, model.net.out_indices)]
    images = next(node.meta["val"] for node in program.graph.nodes if node.name == INPUT)
    symbols = {str(size): AXES[axis] for axis, size in enumerate(images.shape) if not isinstance(size, int)}

    def readable(size: Any) -> Union[int, str]:
        return size if isinstance(size, int) else re.sub(r"\bs\d+\b", lambda m: symbols.get(m[0], m[0]), str(size))

    values = next(node for node in program.graph.nodes if node.op == "output").args[0]
    return {name: [readable(size) for size in value.meta["val"].shape] for name, value in zip(names, values)}


def write_checked(
    program: torch.export.ExportedProgram,
    target: Path,
    format: str,
    eager: FlatOutput,
    required: Sequence[Tuple[int, ...]],
    optional: Sequence[Tuple[int, ...]] = (),
) -> ExportReport:
    """Writes a program, loads the file and compares its outputs; only then it gets its name.

    Raises:
        ExportError: it can't be converted, or differs from `eager` with images of a required shape.
    """
    checked, refused, errors = [], [], []
    outputs = output_shapes(eager, program)

    def write(file: Any) -> None:
        if format == "torch":
            torch.export.save(program, file)
        else:
            file.write(to_onnx(program, list(outputs)))
        file.flush()
        run = load_torch(file.name) if format == "torch" else load_onnx(file.name)
        for shape in (*required, *optional):
            try:
                errors.append(difference(run, eager, shape))
                checked.append(shape)
            except ExportError:
                if shape in required:
                    raise
                refused.append(shape)

    with quiet():
        atomic_write(target, write)
    return ExportReport(Path(target), outputs, checked, refused, max(errors))


def to_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str]) -> bytes:
    """The ONNX model of a program, weights within."""
    try:
        converted = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=outputs)
        return converted.model_proto.SerializeToString()
    except Exception as error:  # onnxscript's, protobuf's limit of 2 GiB
        raise ExportError(f"the program can't be converted to ONNX: {first_line(error)}") from error


def require_onnx() -> None:
    """Raises ImportError, with the remedy, where a package that ONNX needs is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'visionattn[export]'") from error


def load_torch(path: str) -> Any:
    """Images to outputs, by a program's file."""
    return torch.export.load(path).module()


def load_onnx(path: str) -> Any:
    """Images to outputs, by an ONNX file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {INPUT: images.numpy()})]


def difference(run: Any, eager: nn.Module, shape: Sequence[int]) -> float:
    """Largest difference of an exported model's outputs from the model's, in norm, over the output's norm.

    Raises:
        ExportError: it doesn't run with images of that shape, or an output differs by more than `TOLERANCE`.
    """
    images = random_images(*shape)
    try:
        outputs = run(images)
    except Exception as error:
        raise ExportError(f"with images {list(shape)} the exported model fails: {first_line(error)}") from error
    worst = 0.0
    for out, expected in zip(outputs, eager(images)):
        if out.shape != expected.shape:
            shapes = f"{list(out.shape)} instead of {list(expected.shape)}"
            raise ExportError(f"with images {list(shape)} the exported model gives {shapes}")
        worst = max(worst, float((out - expected).norm() / expected.norm().clamp_min(1e-12)))
    if not worst <= TOLERANCE:
        raise ExportError(f"with images {list(shape)} the exported model is {worst:.1e} off the model, in norm")
    return worst


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings, which concern their own making."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
