"""The settings of a recipe: what to read, how to embed, group, score, filter and select, and where to write.

Frozen models, checked once; `config` reads them from YAML and says what is wrong. Secrets belong into a
recipe as ``${ENV}``; one that stands there literally works, and is written nowhere.
"""

from curate.recipe.dedup import Against, Cluster, Dedup, DropShare
from curate.recipe.notify import Notify
from curate.recipe.recipe import Limits, Ray, Recipe, Remote, Write
from curate.recipe.scores import (
    FAMILIES,
    ClipScore,
    Color,
    External,
    Family,
    Fuse,
    Heads,
    Noise,
    NormSim,
    Pair,
    Pixels,
)
from curate.recipe.select import ScoreFilter, canonical
from curate.recipe.source import Embed, Source
from curate.recipe.types import parse_bytes, parse_share, whole

__all__ = [
    "FAMILIES",
    "Against",
    "ClipScore",
    "Cluster",
    "Color",
    "Dedup",
    "DropShare",
    "Embed",
    "External",
    "Family",
    "Fuse",
    "Heads",
    "Limits",
    "Noise",
    "NormSim",
    "Notify",
    "Pair",
    "Pixels",
    "Ray",
    "Recipe",
    "Remote",
    "ScoreFilter",
    "Source",
    "Write",
    "canonical",
    "parse_bytes",
    "parse_share",
    "whole",
]
