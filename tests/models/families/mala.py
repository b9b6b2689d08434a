"""MAViT: magnitude-aware linear attention."""

from tests.models.families._gated_pyramid import family

FAMILY = family(
    "mala",
    "mala",
    {
        "t": (16_449_128, 2.640),
        "s": (27_142_568, 4.905),
        "b": (49_792_648, 10.606),
        "l": (97_766_088, 17.259),
    },
    # The figures count one multiplication per key for its mean; ours adds them up.
    macs_tolerance=3e-3,
)
