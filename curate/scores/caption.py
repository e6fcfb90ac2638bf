"""What a caption looks like, by rules and without a model: its length, what repeats in it, links, how many others have it.

Words are runs of letters, digits and marks, case aside, except in `caption_n_words`, which counts what white space separates, as
the filters of DataComp do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from curate.scores.base import AtLeastOne, Score, Sources
from curate.scores.columns import Column
from curate.settings import listed

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output
    from curate.scores.tables.whole_captions import CaptionTask

__all__ = ["Caption", "caption_columns", "counted", "normal_hashes", "repeated_share"]

#: The words by which captions count, and what each says.
COUNT_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
}  # fmt: skip
#: Per sample: its hash, its place in the order of hashes, and sorting them.
_ROW_BYTES = 40

_LINK = r"(?i)(?:https?://|\bwww\.)\S+"
_WORD = r"[\p{L}\p{M}\p{N}]+"

Hashes = npt.NDArray[np.uint64]


class Caption(Score):
    """Columns of numbers about the caption alone. A caption that is empty or white space has none.

    ngram : how many words make a phrase of `caption_repeated_phrases`. languages : the codes of the languages to tell apart
    (all: all that the detector knows), for the column `caption_language`; null makes none.
    """

    measures: ClassVar[str] = (
        "what a caption looks like: length, repetition, links, digits, how many have the same"
    )
    paper: ClassVar[str] = (
        "count words: Paiss et al. 2023, arXiv:2302.12066, without its detector of objects (source: not checked); the others are rules of this project"
    )
    cost: ClassVar[str] = "two passes over the captions, 0.2 ms a caption; languages 0.2 to 0.5 ms more"
    requires: ClassVar[str] = "captions"
    avoid: ClassVar[str] = "to judge what a caption says of its image: that is clip_score"
    place: ClassVar[int] = 14
    outputs: ClassVar[Mapping[str, Column]] = {
        "caption_n_chars": Column(None),
        "caption_n_words": Column(None),
        "caption_repeated_words": Column("noisier"),
        "caption_repeated_phrases": Column("noisier"),
        "caption_link_share": Column("noisier"),
        "caption_digit_share": Column("noisier"),
        "caption_punctuation_share": Column("noisier"),
        "caption_count": Column(None),
        "caption_copies": Column("noisier"),
    }
    reads: ClassVar[tuple[str, ...]] = ("caption",)

    family: Literal["caption"] = "caption"
    ngram: AtLeastOne = 3
    languages: (
        Literal["all"] | Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)] | None
    ) = None

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Captions."""
        return ("caption",)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns of numbers, and the language where it is asked for."""
        return {**self.outputs, **({"caption_language": Column(None, "string")} if self.languages else {})}

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError where languages are asked for and the detector is not there, or does not know one."""
        from curate.scores.texts.language import require_detector

        if self.languages:
            require_detector(self._among)

    @property
    def _among(self) -> tuple[str, ...] | None:
        return None if self.languages in (None, "all") else tuple(self.languages or ())

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return a file of the captions that more than one sample has."""
        if context is None or output is None:
            return {}
        return {"repeated": _repeated_file(context, output)}

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.io import storage

        found = super().compute(context, output)
        storage.remove(context.run.work / "score-caption")
        return found

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        captions = samples.require("caption", "captions")
        made = self.score_rows(caption=captions, repeated=counted(normal_hashes(captions)))
        return {name: made[name] for name in self.columns_made()}, made[self.status_column]

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the columns of each caption."""
        captions, repeated = rows["caption"], rows["repeated"]
        if isinstance(repeated, Path):
            from curate.io import storage

            repeated = np.load(storage.ensure_local(repeated), mmap_mode="r", allow_pickle=False)
        found: dict[str, npt.NDArray[Any]] = dict(caption_columns(captions, self.ngram))
        there = np.isfinite(found["caption_n_chars"])
        found["caption_copies"] = np.where(there, _looked_up(normal_hashes(captions), repeated), np.nan)
        if self.languages:
            from curate.scores.texts.language import languages_of

            codes = np.full(len(captions), None, object)
            codes[there] = languages_of((captions[row] for row in np.flatnonzero(there)), self._among)
            found["caption_language"] = codes
        found[self.status_column] = np.where(there, "ok", "no_text").astype(object)
        return found


def caption_columns(captions: Sequence[str | None], ngram: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return what each caption alone says of itself, (n,) each; NaN where it is None, empty or white space.

    `caption_copies`, which needs all captions, is NaN.

    caption_n_chars, caption_n_words : characters, and words between white space. caption_repeated_words,
    caption_repeated_phrases : the share of words (of `ngram` words in a row) that stood in the caption before, in [0, 1).
    caption_link_share : the share of characters in addresses (http, https, www). caption_digit_share,
    caption_punctuation_share : of the characters that are no white space, the share of digits; of punctuation and symbols.
    caption_count : the number that the first of the words two to ten says, 0 where there is none.

    >>> found = caption_columns(["Two cats, two cats! see www.a.b", " ", None], 2)
    >>> {name.removeprefix("caption_"): values.round(3).tolist()[0] for name, values in sorted(found.items())}
    {'copies': nan, 'count': 2.0, 'digit_share': 0.0, 'link_share': 0.226, 'n_chars': 31.0, 'n_words': 6.0, 'punctuation_share': 0.154,
     'repeated_phrases': 0.143, 'repeated_words': 0.25}
    """
    import polars as pl

    text = pl.col("caption")
    length, solid = text.str.len_chars(), text.str.count_matches(r"\S")
    words = text.str.to_lowercase().str.extract_all(_WORD)
    frame = pl.DataFrame({"caption": pl.Series(list(captions), dtype=pl.String)})
    frame = frame.with_columns(pl.when(text.str.contains(r"\S")).then(text).alias("caption"))
    found = frame.select(
        words.alias("all_words"),
        caption_n_chars=length,
        caption_n_words=text.str.count_matches(r"\S+"),
        caption_link_share=1 - text.str.replace_all(_LINK, "").str.len_chars() / length,
        caption_digit_share=text.str.count_matches(r"\p{Nd}") / solid,
        caption_punctuation_share=text.str.count_matches(r"[\p{P}\p{S}]") / solid,
    )
    made = {name: found[name].cast(pl.Float64).to_numpy() for name in found.columns[1:]}
    made |= {name: np.full(len(captions), np.nan) for name in Caption.outputs if name not in made}
    for row, some in enumerate(found["all_words"].to_list()):
        if some is not None:
            made["caption_repeated_words"][row] = repeated_share(some, 1)
            made["caption_repeated_phrases"][row] = repeated_share(some, ngram)
            made["caption_count"][row] = next((COUNT_WORDS[word] for word in some if word in COUNT_WORDS), 0)
    return made


def repeated_share(words: Sequence[str], n: int) -> float:
    """Return the share of runs of `n` words that stood before, in [0, 1); 0 where there are fewer than `n` words.

    >>> repeated_share("a b a b a".split(), 1), repeated_share("a b a b a".split(), 2), repeated_share([], 1)
    (0.6, 0.5, 0.0)
    """
    runs = len(words) - n + 1
    if runs < 2:
        return 0.0
    return 1.0 - len({tuple(words[start : start + n]) for start in range(runs)}) / runs


# --- how many captions are the same ------------------------------------------------------------------------------


def normal_hashes(captions: Sequence[str | None]) -> Hashes:
    """Return a hash of each caption after what makes templates differ is taken out, (n,); 0 where there is none.

    Case, punctuation and white space count for nothing, and a run of digits is as good as any other: ``IMG_0012.JPG`` and
    ``img 7 jpg`` are the same.

    >>> found = normal_hashes(["IMG_0012.JPG", "img 7 jpg", "a cat", " ", None])
    >>> (found[0] == found[1]).item(), (found[0] == found[2]).item(), found[3:].tolist()
    (True, False, [0, 0])
    """
    import polars as pl
    import xxhash

    text = pl.Series(list(captions), dtype=pl.String).str.to_lowercase()
    text = text.str.replace_all(r"\p{Nd}+", "0").str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ")
    plain = text.str.strip_chars().to_list()
    whole = ((one or (given or "").strip()) for one, given in zip(plain, captions, strict=True))
    hashes = (xxhash.xxh3_64_intdigest(one.encode("utf-8", "surrogatepass")) if one else 0 for one in whole)
    return np.fromiter(hashes, np.uint64)


def counted(hashes: Hashes) -> Hashes:
    """Return the hashes that come more than once, in order, above how often each does: (2, m).

    >>> counted(np.array([7, 3, 7, 5, 3, 7], np.uint64))
    array([[3, 7],
           [2, 3]], dtype=uint64)
    """
    found, count = np.unique(hashes[hashes != 0], return_counts=True)
    return np.stack([found[count > 1], count[count > 1].astype(np.uint64)])


def _looked_up(hashes: Hashes, repeated: Hashes) -> npt.NDArray[np.float64]:
    """Return how many samples have the caption of each hash: 1 where it is not among the repeated ones."""
    known, count = np.asarray(repeated[0]), np.asarray(repeated[1])
    place = np.minimum(np.searchsorted(known, hashes), max(0, len(known) - 1))
    same = known[place] == hashes if len(known) else np.zeros(len(hashes), np.bool_)
    return np.where(same, count[place] if len(known) else 1, 1).astype(np.float64)


def _repeated_file(context: "Context", output: "Output") -> Path:
    """Count the captions of all parts; return the file of those that come more than once."""
    from curate.io import storage
    from curate.scores.base import embedding_parts, require_memory
    from curate.scores.tables.whole_captions import caption_task

    require_memory(context, "score: caption", sum(map(len, embedding_parts(context))), _ROW_BYTES)
    scratch = context.run.work / "score-caption"
    storage.remove(scratch)  # of a run that was interrupted, perhaps with other data
    tasks = [
        HashTask(part.name, caption_task(context, part, output.sources), scratch / f"{part.name}.npy")
        for part in context.parts
    ]
    context.map("score", "parts", _hash_part, tasks)
    pieces = [np.load(storage.ensure_local(task.out), allow_pickle=False) for task in tasks]
    path = scratch / "repeated.npy"
    _save(path, counted(np.concatenate([np.empty(0, np.uint64), *pieces])))
    return path


@dataclass(frozen=True)
class HashTask:
    """One part whose captions are hashed."""

    part: str
    captions: "CaptionTask"
    out: Path


def _hash_part(task: HashTask) -> None:
    from curate.scores.tables.whole_captions import whole_captions

    _save(task.out, normal_hashes(whole_captions(task.captions)["caption"].to_list()))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    from curate.io import storage

    with storage.atomic(path) as partial, partial.open("wb") as file:
        np.save(file, array)
