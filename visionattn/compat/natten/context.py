"""NATTEN's process-wide switches. They choose among its kernels; here they are remembered, and change nothing."""

from __future__ import annotations

from typing import Callable, Optional

__all__ = [
    "allow_flex_compile",
    "allow_flex_compile_backprop",
    "are_deterministic_algorithms_enabled",
    "disable_autotuner",
    "disable_flex_compile",
    "disable_flex_compile_backprop",
    "get_memory_usage_preference",
    "is_autotuner_enabled_for_backward",
    "is_autotuner_enabled_for_forward",
    "is_flex_compile_allowed",
    "is_flex_compile_backprop_allowed",
    "is_fused_na_enabled",
    "is_gemm_na_enabled",
    "is_kv_parallelism_in_fused_na_enabled",
    "is_memory_usage_default",
    "is_memory_usage_strict",
    "is_memory_usage_unrestricted",
    "is_tf32_in_gemm_na_enabled",
    "is_tiled_na_enabled",
    "set_memory_usage_preference",
    "use_autotuner",
    "use_deterministic_algorithms",
    "use_fused_na",
    "use_gemm_na",
    "use_kv_parallelism_in_fused_na",
    "use_tf32_in_gemm_na",
    "use_tiled_na",
]

_PREFERENCES = ("default", "strict", "unrestricted")
_STATE: dict[str, object] = {
    "kv_parallelism": True,
    "memory_usage": "default",
    "deterministic": False,
    "flex_compile": False,
    "flex_compile_backprop": False,
    "fused_na": False,
    "tiled_na": True,
    "gemm_na": True,
    "tf32_in_gemm_na": True,
    "autotune_forward": False,
    "autotune_backward": False,
}


def _set(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"mode must be a bool, got {value!r}")
    _STATE[name] = value


def _switch(setter: str, getter: str, key: str, generation: str) -> tuple[Callable, Callable]:
    """A function that sets a switch, and the one that reads it."""

    def set_switch(mode: bool = True) -> None:
        _set(key, mode)

    def get_switch() -> bool:
        return bool(_STATE[key])

    set_switch.__name__ = set_switch.__qualname__ = setter
    set_switch.__doc__ = f"A switch of NATTEN {generation}: remembered for `{getter}`, no effect."
    get_switch.__name__ = get_switch.__qualname__ = getter
    get_switch.__doc__ = f"What `{setter}` was last set to."
    return set_switch, get_switch


use_kv_parallelism_in_fused_na, is_kv_parallelism_in_fused_na_enabled = _switch(
    "use_kv_parallelism_in_fused_na", "is_kv_parallelism_in_fused_na_enabled", "kv_parallelism", "0.17 and later"
)
use_deterministic_algorithms, are_deterministic_algorithms_enabled = _switch(
    "use_deterministic_algorithms", "are_deterministic_algorithms_enabled", "deterministic", "0.17 and later"
)
use_deterministic_algorithms.__doc__ += " Gradients of visionattn's operators are deterministic always."
allow_flex_compile_backprop, is_flex_compile_backprop_allowed = _switch(
    "allow_flex_compile_backprop", "is_flex_compile_backprop_allowed", "flex_compile_backprop", "0.20 and later"
)
use_tiled_na, is_tiled_na_enabled = _switch("use_tiled_na", "is_tiled_na_enabled", "tiled_na", "0.17")
use_gemm_na, is_gemm_na_enabled = _switch("use_gemm_na", "is_gemm_na_enabled", "gemm_na", "0.17")
use_tf32_in_gemm_na, is_tf32_in_gemm_na_enabled = _switch(
    "use_tf32_in_gemm_na", "is_tf32_in_gemm_na_enabled", "tf32_in_gemm_na", "0.17"
)


def allow_flex_compile(mode: bool = True, backprop: bool = False) -> None:
    """A switch of NATTEN 0.20 and later: remembered for its getters, no effect."""
    _set("flex_compile", mode)
    _set("flex_compile_backprop", backprop)


def is_flex_compile_allowed() -> bool:
    """What `allow_flex_compile` was last set to."""
    return bool(_STATE["flex_compile"])


def disable_flex_compile() -> None:
    """Undoes `allow_flex_compile`."""
    allow_flex_compile(False, False)


def disable_flex_compile_backprop() -> None:
    """Undoes `allow_flex_compile_backprop`."""
    allow_flex_compile_backprop(False)


def set_memory_usage_preference(pref: str = "default") -> None:
    """How much scratch memory NATTEN's backward may take: remembered, no effect (ours takes linear memory).

    Args:
        pref: "default", "strict" or "unrestricted".

    Raises:
        ValueError: another value.
    """
    if pref not in _PREFERENCES:
        raise ValueError(f"pref must be one of {', '.join(_PREFERENCES)}, got {pref!r}")
    _STATE["memory_usage"] = pref


def get_memory_usage_preference() -> str:
    """What `set_memory_usage_preference` was last set to."""
    return str(_STATE["memory_usage"])


def is_memory_usage_default() -> bool:
    """Whether the memory preference is "default"."""
    return get_memory_usage_preference() == "default"


def is_memory_usage_strict() -> bool:
    """Whether the memory preference is "strict"."""
    return get_memory_usage_preference() == "strict"


def is_memory_usage_unrestricted() -> bool:
    """Whether the memory preference is "unrestricted"."""
    return get_memory_usage_preference() == "unrestricted"


def use_fused_na(mode: bool = True, kv_parallel: Optional[bool] = None) -> None:
    """A switch of NATTEN 0.17: remembered for its getter; the modules choose the operator themselves."""
    _set("fused_na", mode)
    if kv_parallel is not None:
        use_kv_parallelism_in_fused_na(kv_parallel)


def is_fused_na_enabled() -> bool:
    """What `use_fused_na` was last set to."""
    return bool(_STATE["fused_na"])


def use_autotuner(forward_pass: bool = True, backward_pass: bool = True) -> None:
    """A switch of NATTEN 0.17: remembered for its getters, no effect."""
    _set("autotune_forward", forward_pass)
    _set("autotune_backward", backward_pass)


def disable_autotuner() -> None:
    """Undoes `use_autotuner`."""
    use_autotuner(False, False)


def is_autotuner_enabled_for_forward() -> bool:
    """What `use_autotuner` was last set to for the forward."""
    return bool(_STATE["autotune_forward"])


def is_autotuner_enabled_for_backward() -> bool:
    """What `use_autotuner` was last set to for the backward."""
    return bool(_STATE["autotune_backward"])
