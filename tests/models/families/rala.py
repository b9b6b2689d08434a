"""RAVLT: rank-augmented linear attention."""

from tests.models.families._gated_pyramid import family

FAMILY = family(
    "rala",
    "ravlt",
    {
        "t": (14_897_768, 2.613),
        "s": (25_591_208, 4.878),
        "b": (48_241_288, 10.580),
        "l": (95_242_440, 17.209),
    },
)
