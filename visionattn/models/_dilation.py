"""Which block dilates how much: the published schedules, by name."""

from typing import List, Sequence, Union

__all__ = ["MAX_DILATION", "PRESETS", "resolve_dilations"]

MAX_DILATION = "max"
_ADE640_STAGE2 = (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5)
_MASK2FORMER_STAGE2 = (1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 3)

# One cycle per stage. "224" and "384" are for kernel 7 at that input size, "224" also for kernel 11 at 384.
PRESETS = {
    "224": ((1, 8), (1, 4), (1, 2), (1,)),
    "384": ((1, 13), (1, 6), (1, 3), (1,)),
    "coco": ((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "ade512": ((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "ade640": ((1, 20), (1, 5, 1, 10), _ADE640_STAGE2, (1, 2)),
    "mask2former": ((1, 14), (1, 4, 1, 7), _MASK2FORMER_STAGE2, (1,)),
}

Dilation = Union[int, str]
Dilations = Union[None, str, Sequence[Sequence[int]]]


def _spread(cycle: Sequence[int], depth: int) -> List[int]:
    """`cycle` repeated over `depth` blocks; a stage too short for one cycle takes its end, which dilates most."""
    start = max(0, len(cycle) - depth - depth % 2)  # even, so that even blocks stay local
    return [cycle[(start + j) % len(cycle)] for j in range(depth)]


def resolve_dilations(dilations: Dilations, depths: Sequence[int]) -> List[List[Dilation]]:
    """The dilation of every block.

    Args:
        dilations: None (1 everywhere), a name of `PRESETS`, "max" (odd blocks dilate as far as the map allows, chosen
            anew for each input), or one list of ints per stage with an entry per block.
        depths: Blocks per stage.

    Returns:
        One list per stage; an entry is an int or "max".

    Raises:
        TypeError: an entry is not an int.
        ValueError: unknown name, or a length that does not fit `depths`.
    """
    if dilations is None:
        return [[1] * depth for depth in depths]
    if isinstance(dilations, str):
        if dilations == MAX_DILATION:
            return [[MAX_DILATION if j % 2 else 1 for j in range(depth)] for depth in depths]
        if dilations not in PRESETS:
            raise ValueError(
                f"dilations must be one of {[*PRESETS, MAX_DILATION]} or a list per stage, got {dilations!r}"
            )
        cycles = PRESETS[dilations]
        if len(depths) != len(cycles):
            raise ValueError(f"dilations={dilations!r} is for {len(cycles)} stages, got depths={tuple(depths)}")
        return [_spread(cycle, depth) for cycle, depth in zip(cycles, depths)]
    if not isinstance(dilations, Sequence) or not all(isinstance(stage, Sequence) for stage in dilations):
        raise TypeError(f"dilations must be a name or one list of ints per stage, got {dilations!r}")
    if [len(stage) for stage in dilations] != list(depths):
        raise ValueError(f"dilations must have one entry per block, {tuple(depths)} per stage, got {dilations!r}")
    for stage in dilations:
        for entry in stage:
            if not isinstance(entry, int) or isinstance(entry, bool):
                raise TypeError(f"dilations must hold ints, got {entry!r} in {dilations!r}")
            if entry < 1:
                raise ValueError(f"dilations must be at least 1, got {entry} in {dilations!r}")
    return [list(stage) for stage in dilations]
