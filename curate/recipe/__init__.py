"""The settings of a recipe: what to read, how to embed, group, score, filter and select, and where to write.

Frozen models, checked once; `config` reads them from YAML and says what is wrong. Secrets belong into a
recipe as ``${ENV}``; one that stands there literally works, and is written nowhere.
"""

from curate.recipe.dedup import Cluster, Dedup, DropShare, PrecisionTarget
from curate.recipe.embed import Embed
from curate.recipe.evaluate import Evaluate
from curate.recipe.notify import Notify
from curate.recipe.recipe import Card, Limits, Ray, Recipe, Remote, Write
from curate.recipe.scores import FAMILIES, Family
from curate.recipe.select import ScoreFilter, canonical
from curate.recipe.types import parse_bytes, parse_share, whole
from curate.scores.clip_score import ClipScore
from curate.scores.color import Color
from curate.scores.external.external import External
from curate.scores.fuse import Fuse
from curate.scores.heads.heads import Heads
from curate.scores.leakage import Against
from curate.scores.noise.noise import Noise
from curate.scores.normsim import NormSim
from curate.scores.pair.pair import Pair
from curate.scores.pixels.pixels import Pixels
from curate.sources.settings import Source

__all__ = [
    "FAMILIES",
    "Against",
    "Card",
    "ClipScore",
    "Cluster",
    "Color",
    "Dedup",
    "DropShare",
    "Embed",
    "Evaluate",
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
    "PrecisionTarget",
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
