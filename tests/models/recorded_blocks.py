"""Parts of networks against what the released code computed, with gradients."""

from typing import Callable, Dict, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tests.ops.cases import relative_error

Archive = Mapping[str, np.ndarray]


def recorded(archive: Archive, case: str, kind: str) -> Dict[str, Tensor]:
    """The tensors `<case>/<kind>/<name>` by name."""
    prefix = f"{case}/{kind}/"
    names = archive.files if hasattr(archive, "files") else archive
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(archive[name]))
        for name in names
        if name.startswith(prefix)
    }


def assert_block_matches(
    archive: Archive,
    case: str,
    module: nn.Module,
    rename: Callable[[Dict[str, Tensor]], Dict[str, Tensor]] = lambda names: names,
    extra: Sequence = (),
    buffers: str = "",
) -> None:
    """Checks a module's output and every gradient to 1e-10 in float64.

    Args:
        archive: The recording: `<case>/{x,y,grad_y,grad_x}`, and `<case>/{param,grad}/<official name>`.
        case: Which.
        module: Ours, of any dtype; takes `x` and `extra`.
        rename: From official names to ours.
        extra: Further arguments.
        buffers: Kind of the recorded buffers to load, if any.
    """
    state = recorded(archive, case, "param")
    if buffers:
        state.update(recorded(archive, case, buffers))
    missing, unexpected = module.double().load_state_dict(rename(state), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    x, y, grad = (torch.from_numpy(archive[f"{case}/{name}"]) for name in ("x", "y", "grad_y"))
    out = module(x.requires_grad_(), *extra)
    assert relative_error(out, y) < 1e-10
    out.backward(grad)
    assert relative_error(x.grad, torch.from_numpy(archive[f"{case}/grad_x"])) < 1e-10
    expected = rename(recorded(archive, case, "grad"))
    for name, parameter in module.named_parameters():
        # A bias whose gradient is zero but for rounding (before a norm of batch statistics) has no relative error.
        error = (parameter.grad - expected[name]).norm()
        assert error < 1e-10 * max(expected[name].norm(), 1e-4), name
