"""What relevance in a run is judged against: a background sample, a bank of texts, and a curve; and who is relevant.

The background is the 4,096 samples with the smallest hashes of (uid, seed). The texts are embedded once and kept with the
curve in `.work/relevance.json`; nothing else is stored, and nothing that a stage made changes. Products are float64 in
blocks of one size, and what comes out is rounded, so that last bits decide nothing.
"""

import base64
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.analysis.summary.tables import beside, part_names
from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.embedding.taught import taught_words
from curate.errors import RunError, UsageError
from curate.hashing import hash_uids
from curate.io import storage
from curate.io.remote.cache import store_of
from curate.linalg import load_unit, unit_rows
from curate.recipe.loading import load_recipe
from curate.retrieval import relevance as formulas
from curate.retrieval.fit import Curve, fit_curve
from curate.retrieval.things import SENSELESS, THINGS
from curate.retrieval.words import content_words, coverage, plain_name, unknown_share
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

    from curate.embedding.clip import Clip

__all__ = ["THRESHOLD", "Answer", "Ground", "ground_of", "relevant"]

#: What counts as relevant, where nothing else is asked for.
THRESHOLD = 0.5
#: Samples whose cosines say where a query lies.
BACKGROUND = 4_096
#: Names of classes, and captions, that the curve is fitted to.
OWN = 256
#: How a name is put before the model; the vector of a name is the mean of these.
TEMPLATES = ("{}", "a photo of {}", "a photo of a {}")
#: A query is not judged if the model was not taught more than this share of its words.
UNKNOWN = 0.5

VERSION = 1
_DIGITS = 6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ground:
    """What queries to a run are judged against.

    bank : unit vectors of texts about anything (texts, d). background : unit vectors of sampled images (m, d). curve :
    says whether something fits. classes : names of the classes there are. names, said : plain names of the run's classes and
    sampled captions, and the words of each caption: what the run itself says it has. temperature :
    of the model. known : whether the model was taught a word; None where it cannot be told.
    """

    folder: RunFolder
    clip: "Clip"
    bank: Floats
    background: Floats
    curve: Curve
    classes: tuple[str, ...]
    names: frozenset[str]
    said: frozenset[frozenset[str]]
    known: Callable[[str], bool] | None

    @property
    def captions_decide(self) -> bool:
        """Whether the words of captions are asked, because the model cannot tell what fits."""
        return bool(self.said) and not self.curve.reliable

    def has(self, name: str) -> bool:
        """Return whether the run itself has this name: as that of a class or a caption, or all its words in one caption."""
        words = content_words(name)
        return plain_name(name) in self.names or (bool(words) and any(words <= one for one in self.said))

    @property
    def temperature(self) -> float:
        """What cosines are divided by."""
        return self.clip.temperature

    @cached_property
    def bank_where(self) -> Floats:
        """Where the cosines of the texts of the bank lie, (texts, 1)."""
        return formulas.location(self.bank @ self.background.T, self.temperature)


@dataclass(frozen=True)
class Answer:
    """What was found for one name.

    fits : the probability that anything fits, 0 where the words are unknown; 1 for what the run itself says it has. unknown : the
    share of its words that the model was not taught. by : what decided: model or captions. best : the largest cosine.
    """

    name: str
    rows: "pl.DataFrame"
    fits: float
    unknown: float
    by: str
    best: float

    def why_empty(self) -> str:
        """Return why nothing was found, in a few words."""
        if self.unknown > UNKNOWN:
            return "the model was not taught most of these words"
        if self.by == "captions":
            return "no caption has these words (the model alone cannot tell what fits here)"
        if self.fits < THRESHOLD:
            return f"no image is nearer to it than to other texts (fits with probability {self.fits:.2f})"
        return "no image is relevant enough"


def ground_of(folder: RunFolder, clip: "Clip") -> Ground:
    """Return what queries to a run are judged against, made by its model now or before.

    Raises UsageError for a run without images that have vectors.
    """
    seed = load_recipe(folder.recipe).seed
    sample = _background(folder, seed)
    if not len(sample.vectors):
        raise UsageError(f"{folder.where} has no vectors to search")
    own = _own_texts(folder, sample)
    known = taught_words(clip, THINGS)
    bank = [text for text in THINGS if known is None or unknown_share(text, known) == 0]
    words = {word for text in [*own, *sample.captions] for word in content_words(text)}
    # Where the run says nothing of itself, common things may well be in it.
    others = (*THINGS, *SENSELESS) if own else SENSELESS
    foreign = [text for text in others if not content_words(text) & words]
    made_from = storage.fingerprint(
        "relevance",
        VERSION,
        folder.fingerprint(folder.embeddings),
        clip.identity,
        seed,
        own,
        bank,
        foreign,
        TEMPLATES,
    )
    path = folder.work / "relevance.json"
    stored = storage.read_json(path)
    if isinstance(stored, dict) and stored.get("made_from") == made_from:
        packed = np.frombuffer(base64.b64decode(stored["bank"]), "<f4")
        vectors, curve = packed.reshape(len(bank), -1).astype(np.float64), Curve(**stored["curve"])
    else:
        vectors = text_vectors(clip, bank)
        curve = _curve(folder, clip, vectors, own, foreign)
        packed = np.ascontiguousarray(vectors, "<f4")
        record = {
            "made_from": made_from,
            "curve": asdict(curve),
            "bank": base64.b64encode(packed.tobytes()).decode(),
        }
        if store_of(folder.path) is None:  # nobody writes at a URL without its lock
            with contextlib.suppress(RunError):  # a run that cannot be written is read all the same
                storage.write_record(path, record)
    names = frozenset(map(plain_name, [*own, *sample.captions])) - {""}
    said = frozenset(map(content_words, sample.captions))
    classes = tuple(_classes(folder, sample)[:OWN])
    return Ground(folder, clip, vectors, sample.vectors, curve, classes, names, said, known)


def text_vectors(clip: "Clip", texts: Sequence[str]) -> Floats:
    """Return the vectors of texts, (n, d) float64 of unit length: means over `TEMPLATES`."""
    every = [template.format(text) for template in TEMPLATES for text in texts]
    found = clip.encode_texts(every).astype(np.float64).reshape(len(TEMPLATES), len(texts), clip.dim)
    return unit_rows(found.mean(axis=0))[0].astype(np.float64)


@dataclass(frozen=True)
class _Sample:
    """Sampled images in the order of their hashes: vectors (m, d), captions without repetition, names of labels."""

    vectors: Floats
    captions: list[str]
    labels: list[str]


def _background(folder: RunFolder, seed: int) -> _Sample:
    """Return the samples with the smallest hashes."""
    import polars as pl

    frames = []
    for index, part in enumerate(part_names(folder, folder.embeddings)):
        rows = beside(folder, part, ["caption", "label"], [], usable=True).select("uid", "caption", "label")
        code = pl.Series("code", hash_uids(rows["uid"].to_list(), seed, "retrieve", "background"), pl.UInt64)
        rows = rows.with_columns(code, part=pl.lit(index)).with_row_index("position")
        frames.append(storage.compact(rows.sort("code", "uid").head(BACKGROUND)))
        if len(frames) > 1:
            frames = [pl.concat(frames).sort("code", "uid").head(BACKGROUND)]
    if not frames or not len(frames[0]):
        return _Sample(np.empty((0, 1)), [], [])
    chosen, vectors = frames[0].sort("code", "uid").with_row_index("place"), None
    for index, part in enumerate(part_names(folder, folder.embeddings)):
        here = chosen.filter(pl.col("part") == index)
        stored = EmbeddingPart(folder.part(folder.embeddings, part))
        vectors = np.empty((len(chosen), stored.dim)) if vectors is None else vectors
        vectors[here["place"].to_numpy()] = load_unit(
            stored.take("image", here["position"].cast(pl.Int64).to_numpy())
        )
    captions = [text for text in chosen["caption"].drop_nulls().unique(maintain_order=True) if text.strip()]
    labels = chosen["label"].drop_nulls().unique(maintain_order=True).to_list()
    return _Sample(np.empty((0, 1)) if vectors is None else vectors, captions, labels)


def _own_texts(folder: RunFolder, sample: _Sample) -> list[str]:
    """Return what the run itself calls its images: names of the classes that the sample has, then captions."""
    return list(dict.fromkeys([*_classes(folder, sample), *sample.captions]))[:OWN]


def _classes(folder: RunFolder, sample: _Sample) -> list[str]:
    """Return the names of the classes that the sample has, sorted."""
    classes = folder.class_names()
    return sorted({classes[label] for label in sample.labels if label in classes})


def _curve(
    folder: RunFolder, clip: "Clip", bank: Floats, own: Sequence[str], foreign: Sequence[str]
) -> Curve:
    """Return the curve between the best surpluses of the run's own texts and of texts about other things."""
    vectors = text_vectors(clip, [*own, *foreign])
    best = np.full(len(vectors), -2.0)
    for _, _, block in _blocks(folder):
        best = np.maximum(best, formulas.best_surplus(vectors @ block.T, bank @ block.T))
    return fit_curve(best[: len(own)].round(_DIGITS), best[len(own) :].round(_DIGITS))


def _blocks(folder: RunFolder) -> Iterator[tuple[str, npt.NDArray[np.int64], Floats]]:
    """Yield the images of a run: part, positions in it, and vectors in float64."""
    for part in part_names(folder, folder.embeddings):
        stored = EmbeddingPart(folder.part(folder.embeddings, part))
        for batch in range(stored.batches):
            rows = np.flatnonzero(stored.present("image", batch))
            if len(rows):
                vectors = load_unit(stored.half("image", batch)[rows]).astype(np.float64)
                yield part, batch * BATCH_ROWS + rows, vectors


def relevant(
    ground: Ground,
    names: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    top: int | None = None,
    compete: bool = True,
    allowed: Callable[[str, int], npt.NDArray[np.bool_]] | None = None,
) -> list[Answer]:
    """Return the images of a run that are relevant to each name, the most relevant first.

    threshold : the least relevance. top : at most so many of each name. compete : whether an image is of one name rather than
    of another (or of another class of the run), or each name is judged by itself. allowed : which images of a part (its name, their number) may be found. The rows of an answer
    have the columns uid, part, position, relevance, cosine; equal ones are in the order of their cosines, then of uids.
    """
    asked = {plain_name(name) for name in names}
    rivals = [name for name in ground.classes if compete and plain_name(name) not in asked]
    vectors = text_vectors(ground.clip, [*names, *rivals])
    scan = _Scan(ground, names, vectors, threshold, top, compete)
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for part, positions, block in _blocks(ground.folder):
        if allowed is not None:
            if part not in masks:
                masks = {
                    part: allowed(
                        part, len(EmbeddingPart(ground.folder.part(ground.folder.embeddings, part)))
                    )
                }
            may = masks[part][positions]
            positions, block = positions[may], block[may]
        scan.add(part, positions, block)
    return [scan.answer(number) for number in range(len(names))]


class _Scan:
    """One pass over the images: the relevant ones so far, and the best surplus, of each name."""

    def __init__(
        self,
        ground: Ground,
        names: Sequence[str],
        vectors: Floats,
        threshold: float,
        top: int | None,
        compete: bool,
    ) -> None:
        self._ground, self._names, self._vectors = ground, names, vectors
        self._threshold, self._top, self._compete = threshold, top, compete
        self._where = formulas.location(vectors @ ground.background.T, ground.temperature)
        self._best = np.full(len(names), -2.0)
        self._nearest = np.full(len(names), -1.0)
        self._hits: list[list[pl.DataFrame]] = [[] for _ in names]
        self._words = [content_words(name) for name in names]

    def add(self, part: str, positions: npt.NDArray[np.int64], block: Floats) -> None:
        """Take in some images of a part."""
        if not len(block):
            return
        ground = self._ground
        every, bank = self._vectors @ block.T, ground.bank @ block.T
        cosines = every[: len(self._names)]  # behind them those of classes that were not asked for
        self._best = np.maximum(self._best, formulas.best_surplus(cosines, bank))
        self._nearest = np.maximum(self._nearest, cosines.max(axis=1))
        other = formulas.something_else(formulas.log_lift(bank, ground.bank_where, ground.temperature))
        lifts = formulas.log_lift(every, self._where, ground.temperature)
        if self._compete:
            found = formulas.posterior(lifts, other)[: len(self._names)]
        else:
            found = np.concatenate([formulas.posterior(one[None, :], other) for one in lifts])
        if ground.captions_decide:
            found = formulas.by_captions(found, self._covered(part, positions))
        found = found.round(_DIGITS)
        for number in np.flatnonzero((found >= self._threshold).any(axis=1)):
            self._keep(int(number), part, positions, found[number], cosines[number].round(_DIGITS))

    def _covered(self, part: str, positions: npt.NDArray[np.int64]) -> Floats:
        """Return the share of the words of each name that the captions (and labels) of some images have, (names, n)."""
        rows = beside(self._ground.folder, part, ["caption", "label"], [], usable=True)[positions]
        classes = self._ground.folder.class_names()
        pairs = zip(rows["caption"].to_list(), rows["label"].to_list(), strict=True)
        texts = [content_words(f"{caption or ''} {classes.get(label, '')}") for caption, label in pairs]
        shares = [[coverage(words, text) for text in texts] for words in self._words]
        return np.array(shares, np.float64).reshape(len(self._words), len(texts))

    def _keep(
        self, number: int, part: str, positions: npt.NDArray[np.int64], found: Floats, cosines: Floats
    ) -> None:
        """Remember the images that are relevant to a name, the best `top` of them."""
        import polars as pl

        chosen = np.flatnonzero(found >= self._threshold)
        if self._top is not None and len(chosen) > self._top:
            least = np.partition(found[chosen], len(chosen) - self._top)[len(chosen) - self._top]
            chosen = chosen[found[chosen] >= least]  # more where they are equal: uids decide
        uids = EmbeddingPart(self._ground.folder.part(self._ground.folder.embeddings, part)).uids()
        at = positions[chosen].tolist()
        frame = pl.DataFrame(
            {
                "uid": [uids[one] for one in at],
                "part": part,
                "position": at,
                "relevance": found[chosen],
                "cosine": cosines[chosen],
            },
            schema=_HITS,
        )
        self._hits[number].append(frame)
        if self._top is not None:
            self._hits[number] = [_ordered(pl.concat(self._hits[number])).head(self._top)]

    def answer(self, number: int) -> Answer:
        """Return what was found for a name: its relevances times how well anything fits it."""
        import polars as pl

        name, ground = self._names[number], self._ground
        unknown = 0.0 if ground.known is None else unknown_share(name, ground.known)
        by = "captions" if ground.captions_decide else "model"
        surplus = float(self._best[number].round(_DIGITS))
        fits = 1.0 if by == "captions" else ground.curve.probability(surplus)
        weight = 1.0 if by == "captions" else ground.curve.weight(surplus)
        if ground.has(name):
            fits = weight = 1.0
        elif unknown > UNKNOWN:
            fits = weight = 0.0
        rows = _ordered(pl.concat([pl.DataFrame(schema=_HITS), *self._hits[number]]))
        rows = rows.with_columns((pl.col("relevance") * weight).round(_DIGITS))
        rows = rows.filter(pl.col("relevance") >= self._threshold)
        return Answer(name, rows, fits, unknown, by, float(self._nearest[number].round(_DIGITS)))


_HITS = {"uid": str, "part": str, "position": int, "relevance": float, "cosine": float}


def _ordered(frame: "pl.DataFrame") -> "pl.DataFrame":
    return frame.sort("relevance", "cosine", "uid", descending=[True, True, False])
