"""NATTEN's arguments that choose a kernel and its tiles. They change no result: they are checked, then ignored."""

from __future__ import annotations

from typing import Any, Callable

BACKENDS = ("cutlass", "hopper", "blackwell", "flex")
SCHEDULES = ("non", "coop", "pp")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _tile_shape(value: object, rank: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == rank and all(map(_is_int, value))


def _splits(value: object, rank: int) -> bool:
    return _is_int(value) or _tile_shape(value, rank)


_TILE_SHAPE = (_tile_shape, "None or one positive int per spatial axis")
_TILE_SIZE = (lambda value, rank: _is_int(value), "None or a positive int")
_SWITCH = (lambda value, rank: isinstance(value, bool), "a bool")
_SCHEDULE = (lambda value, rank: value in SCHEDULES, f"None or one of {', '.join(SCHEDULES)}")
_COMMON = {
    "backward_kv_splits": (_splits, "None, a positive int or one per spatial axis"),
    "backward_use_pt_reduction": _SWITCH,
    "run_persistent_kernel": _SWITCH,
    "torch_compile": _SWITCH,
    "kernel_schedule": _SCHEDULE,
}
_TILES = ("q_tile", "kv_tile", "backward_q_tile", "backward_kv_tile")


def _backend(kind: str) -> tuple[Callable[[object, int], bool], str]:
    names = [f"{name}-{kind}" for name in BACKENDS]
    return (lambda value, rank: value in names), f"None or one of {', '.join(names)}"


_ATTENTION = {"backend": _backend("fmha"), **_COMMON, **{f"{tile}_size": _TILE_SIZE for tile in _TILES}}
_NEIGHBORHOOD = {"backend": _backend("fna"), **_COMMON, **{f"{tile}_shape": _TILE_SHAPE for tile in _TILES}}


def _check(rules: dict[str, tuple], rank: int, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in rules:
            raise TypeError(f"unexpected argument {name!r}; tuning arguments are {', '.join(sorted(rules))}")
        fits, allowed = rules[name]
        if value is not None and not fits(value, rank):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_attention(**given: Any) -> None:
    """Checks the tuning arguments of `attention`.

    Raises:
        TypeError: an argument that `attention` does not have.
        ValueError: a value that NATTEN does not have either.
    """
    _check(_ATTENTION, 1, given)


def check_neighborhood(rank: int, attention_kwargs: object = None, **given: Any) -> None:
    """Checks the tuning arguments of `na1d`, `na2d`, `na3d`; raises as `check_attention`."""
    if attention_kwargs is not None:
        if not isinstance(attention_kwargs, dict):
            raise TypeError(f"attention_kwargs must be None or a dict, got {type(attention_kwargs).__name__}")
        check_attention(**attention_kwargs)
    _check(_NEIGHBORHOOD, rank, given)
