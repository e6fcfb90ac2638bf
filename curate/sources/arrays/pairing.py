"""Which file of vectors belongs to which shard, judging by their names: by stem or number, else by an order that is sure.

Names are sorted as text everywhere else, and ``emb-10`` comes before ``emb-2`` there. So files are paired with
shards by what their names say, and put one behind the other only where text and numbers give the same order.
"""

import re
from collections.abc import Hashable, Sequence

from curate.errors import EmbeddingError

__all__ = ["by_number", "paired", "require_sure_order"]

_ENDS = re.compile(r"(\.[A-Za-z][A-Za-z0-9]*){1,2}$")
_OF = re.compile(r"-of-\d+(?=\D|$)")
_WORDS = re.compile(r"\d+|[^\W\d_]+")
_DIGITS = re.compile(r"(\d+)")

WAYS = (
    "give every shard a file of vectors with its name or number, or vectors as Parquet with the column of uids that "
    "source.uid names"
)


def paired(shards: Sequence[str], files: Sequence[str]) -> list[int] | None:
    """Return the place in `files` of the vectors of each shard; None where their names do not say.

    Names are paths below a common folder. They are compared without their ends, whole, then without folders, then by
    the words and numbers in which they differ from their neighbours (``data-7`` and ``emb_0007``). Raises
    EmbeddingError where numbers say that a shard has no file, or a file no shard.

    >>> paired(["data-10.parquet", "data-9.parquet"], ["emb-0009.npy", "emb-0010.npy"])
    [1, 0]
    >>> paired(["cats.parquet", "dogs.parquet"], ["1.npy", "2.npy"])
    """
    if len(shards) != len(files) or len(shards) < 2:
        return None
    for keys in (_stems, _last_names, _differences):
        mine, theirs = keys(shards), keys(files)
        places = {key: place for place, key in enumerate(theirs)}
        if len(places) == len(files) and set(mine) == places.keys():
            return [places[key] for key in mine]
    _refuse_others(shards, files)
    return None


def _refuse_others(shards: Sequence[str], files: Sequence[str]) -> None:
    """Raise EmbeddingError if names speak of the same things and contradict each other."""
    mine, theirs = _differences(shards), _differences(files)
    numbers = all(len(key) == 1 and isinstance(key[0], int) for key in [*mine, *theirs])
    if not numbers and not set(mine) & set(theirs):
        return
    alone = next((name for name, key in zip(shards, mine, strict=True) if key not in theirs), shards[0])
    rest = next((name for name, key in zip(files, theirs, strict=True) if key not in mine), files[0])
    raise EmbeddingError(
        f"embed.files: judging by the names, {alone} has no file of vectors, and {rest} belongs to no shard; {WAYS}"
    )


def by_number(names: Sequence[str]) -> list[int]:
    """Return the places of names in the order of the numbers in them, as text where they have none.

    >>> by_number(["b10", "b9", "a"])
    [2, 1, 0]
    """
    return sorted(range(len(names)), key=lambda place: _natural(names[place]))


def require_sure_order(names: Sequence[str], what: str) -> None:
    """Raise EmbeddingError unless names stand in the order of their numbers; what : whose names they are."""
    order = by_number(names)
    if order != list(range(len(names))):
        place = next(place for place, other in enumerate(order) if place != other)
        first, other = names[place], names[order[place]]
        raise EmbeddingError(
            f"embed.files: {what} have no sure order: {first} comes before {other} as text, and after it by number, so "
            f"which vectors belong to which rows is not certain; {WAYS}"
        )


def _natural(name: str) -> list[tuple[int, int, bytes]]:
    """Return what sorts a name by the numbers in it: text and numbers take turns."""
    pieces = _DIGITS.split(name)
    return [(int(piece), len(piece), b"") if odd % 2 else (0, 0, piece.encode("utf-8", "surrogatepass"))
            for odd, piece in enumerate(pieces)]  # fmt: skip


def _stems(names: Sequence[str]) -> list[str]:
    return [_ENDS.sub("", name.rstrip("/")) for name in names]


def _last_names(names: Sequence[str]) -> list[str]:
    return [name.rpartition("/")[2] for name in _stems(names)]


def _differences(names: Sequence[str]) -> list[tuple[Hashable, ...]]:
    """Return the words and numbers of each name, without those that all names have at the same place."""
    words: list[list[Hashable]] = [
        [int(one) if one.isdigit() else one.lower() for one in _WORDS.findall(_OF.sub("", stem))]
        for stem in _stems(names)
    ]
    if len({len(one) for one in words}) != 1:
        return [tuple(one) for one in words]
    differ = [place for place, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
    return [tuple(one[place] for place in differ) for one in words]
