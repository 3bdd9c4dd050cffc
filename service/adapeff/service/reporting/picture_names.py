"""The names of the pictures, for completion without what draws them; `pictures.PICTURES` describes each."""

PICTURE_NAMES = (
    "pareto",
    "forest",
    "curves",
    "languages",
    "latency",
    "steps",
    "critical-difference",
)
