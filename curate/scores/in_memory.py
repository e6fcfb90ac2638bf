"""Scores of samples in memory: arrays or a frame in, a Polars frame out, no files; the numbers are those of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.errors import UsageError
from curate.linalg import load_unit, unit_rows
from curate.scores.base import Score
from curate.scores.status import OK, embedding_status, status_names

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Samples", "score"]

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """What families read in memory: n samples whose vectors are unit rows, rounded as a run stores them.

    image : (n, d). text : (n, d), and has_text : (n,), where there are vectors of captions. columns : (n,) each, scores
    that are there, and statuses : why rows of some of them have none. facts : what families found out beside their columns,
    by family; they add theirs. target : (m, d) unit rows. temperature : None where the model of the vectors is not known.
    """

    uids: list[str]
    image: Vectors | None
    text: Vectors | None
    has_text: npt.NDArray[np.bool_]
    captions: list[str | None] | None
    labels: list[str | int | None] | None
    columns: Mapping[str, npt.NDArray[Any]]
    statuses: Mapping[str, npt.NDArray[np.object_]]
    target: Vectors | None
    temperature: float | None
    seed: int
    device: str
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.uids)

    def require(self, family: str, name: str) -> Any:  # noqa: ANN401  (any field)
        """Return a field; raises UsageError where it was not given."""
        value = getattr(self, name)
        if value is None:
            raise UsageError(f"score: {family} needs {name}; give it to curate.score")
        return value

    def column(self, family: str, name: str) -> npt.NDArray[np.float32]:
        """Return a column of scores as float32, NaN where it is null; raises UsageError where there is none."""
        if name not in self.columns:
            have = ", ".join(self.columns) or "none"
            raise UsageError(f"score: {family} needs the column {name!r}; there are {have}")
        values: npt.NDArray[np.float32] = np.asarray(self.columns[name], np.float64).astype(np.float32)
        return values

    def why_missing(self, names: Sequence[str]) -> npt.NDArray[np.object_]:
        """Return the status of each row: `ok`, or that of the first of some columns that is null."""
        why = np.full(len(self), "ok", object)
        for name in reversed(names):
            status = self.statuses.get(name, np.full(len(self), "ok", object))
            reason = np.where(status == "ok", "nonfinite", status)
            why = np.where(np.isfinite(self.columns[name]), why, reason).astype(object)
        return why


def score(
    data: Any,  # noqa: ANN401  (vectors or a frame)
    families: Any,  # noqa: ANN401  (one or several)
    *,
    text: npt.NDArray[np.floating[Any]] | None = None,
    captions: Sequence[str | None] | None = None,
    labels: Sequence[str | int | None] | None = None,
    target: npt.NDArray[np.floating[Any]] | None = None,
    columns: Mapping[str, npt.NDArray[Any]] | None = None,
    uids: Sequence[str] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> "pl.DataFrame":
    """Return the scores of samples in memory.

    Parameters
    ----------
    data : array (n, d) or Polars frame
        Image vectors of any length but 0; or a frame with columns of scores, and perhaps `uid`, `label`, `caption`.
    families : str, Score, mapping, or a list of these
        As in the list `score` of a recipe: ``"pair"``, ``{"heads": {"seeds": 3}}``, ``Heads(seeds=3)``.
    text : array (n, d), optional
        Vectors of the captions by the same model; a row of NaN where there is none.
    captions, labels : sequences of n, optional
        None where a sample has none. Equal captions are no negatives of each other (`pair`).
    target : array (m, d), optional
        Vectors of the target set of `normsim`.
    columns : mapping of name to array (n,), optional
        Scores that are there already, beside those of a frame, for families computed from others.
    uids : sequence of n different names, optional
        By default 0, 1, ...; random numbers depend on them, never on the order of rows.
    temperature : float, optional
        Of the model, for `pair`; 0.01 where it is not known.
    seed : int
        As `seed` of a recipe.
    device : str
        Where heads are trained, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    polars.DataFrame
        One row per sample, in order: `uid`, and for each family its columns and `<family>_status`. A score is null
        where the status is not `ok`.

    Raises
    ------
    UsageError
        If a family needs what is not given, or is computed from files (`file`, `pixels`).
    """
    import polars as pl

    samples, status = _samples(
        data, text=text, captions=captions, labels=labels, target=target, columns=columns, uids=uids, temperature=temperature,
        seed=seed, device=device,
    )  # fmt: skip
    usable = np.flatnonzero(status == "ok")
    rows = _at(samples, usable)
    frame = pl.DataFrame({"uid": pl.Series(samples.uids, dtype=pl.String)})
    asked = _families(families)
    for family in _in_order(asked, set(samples.columns)):
        values, why = family.in_memory(rows)
        names = status.copy()
        names[usable] = why
        schema = pl.DataFrame(family.table().empty_table()).schema
        made = {name: _spread(values[name], usable, len(samples)) for name in family.columns_made()}
        series = [
            pl.Series(name, _named(column), schema[name], nan_to_null=True, strict=False)
            for name, column in made.items()
        ]
        frame = frame.with_columns(*series, pl.Series(family.status_column, names.tolist(), pl.String))
        added = {name: np.asarray(frame[name].to_numpy(), np.float32) for name in family.directions()}
        rows = _with_columns(rows, {name: column[usable] for name, column in added.items()}, why)
    tables = [[*family.columns_made(), family.status_column] for family in asked]
    return frame.select("uid", *(name for names in tables for name in names))


def _in_order(asked: Sequence[Score], given: set[str]) -> list[Score]:
    """Return families so that columns come before what is computed from them; those without theirs come last."""
    waiting, ordered = list(asked), []
    while waiting:
        ready = next((one for one in waiting if set(one.needs) <= given), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
        given = given | set(ready.columns_made())
    return ordered


def _families(given: Any) -> list[Score]:  # noqa: ANN401  (one or several)
    """Return the families that are asked for."""
    from curate.scores.registry import families

    entries = given if isinstance(given, list | tuple) else [given]
    known, found = families(), []
    for entry in entries:
        if isinstance(entry, Score):
            found.append(entry)
            continue
        name, settings = next(iter(entry.items())) if isinstance(entry, Mapping) else (entry, {})
        if name not in known:
            raise UsageError(f"score: {name!r} is no family of scores; there are {', '.join(known)}")
        found.append(known[name].model_validate({**(settings or {}), "family": name}))
    return found


def _samples(data: Any, **given: Any) -> tuple[Samples, npt.NDArray[np.object_]]:  # noqa: ANN401
    """Return the samples, and for each `ok` or what is wrong with its image vector."""
    columns: dict[str, npt.NDArray[Any]] = dict(given["columns"] or {})
    image = None
    if isinstance(data, np.ndarray):
        image, n = data, len(data)
    else:
        n = len(data)
        for name, kind in data.schema.items():
            if name in ("uid", "label", "caption"):
                given[{"uid": "uids"}.get(name, f"{name}s")] = data[name].to_list()
            elif kind.is_numeric():
                columns[name] = (
                    data[name].cast(kind if kind.is_float() else float).fill_null(np.nan).to_numpy()
                )
    uids = [str(uid) for uid in (range(n) if given["uids"] is None else given["uids"])]
    for name in ("text", "captions", "labels", "uids"):
        if given[name] is not None and len(given[name]) != n:
            raise UsageError(
                f"score: {name} must have one entry for each of {n:,} samples, got {len(given[name]):,}"
            )
    if len(set(uids)) != n:
        raise UsageError(f"score: uids must be {n:,} different names, got {len(set(uids)):,}")
    status = np.full(n, "ok", object) if image is None else status_names(embedding_status(image))
    text, has_text = None, np.zeros(n, np.bool_)
    if given["text"] is not None:
        has_text = embedding_status(given["text"]) == OK
        text = np.zeros(given["text"].shape, np.float32)
        text[has_text] = _stored(given["text"][has_text])
    vectors = None
    if image is not None:
        vectors = np.zeros(image.shape, np.float32)
        vectors[status == "ok"] = _stored(image[status == "ok"])
    target = None if given["target"] is None else unit_rows(given["target"])[0]
    samples = Samples(
        uids, vectors, text, has_text, _listed(given["captions"]), _listed(given["labels"]), columns, {}, target,
        given["temperature"], given["seed"], given["device"],
    )  # fmt: skip
    return samples, status


def _stored(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Return unit rows as a run has them: stored in half precision."""
    return load_unit(unit_rows(vectors)[0].astype(np.float16))


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _named(column: npt.NDArray[Any]) -> Any:  # noqa: ANN401  (what a series is made of)
    """Return names as a list: Polars takes an array of objects whose first is None for no text."""
    return column.tolist() if column.dtype.kind == "O" else column


def _at(samples: Samples, rows: npt.NDArray[np.int64]) -> Samples:
    """Return some of the samples."""
    return Samples(
        [samples.uids[row] for row in rows],
        None if samples.image is None else samples.image[rows],
        None if samples.text is None else samples.text[rows],
        samples.has_text[rows],
        None if samples.captions is None else [samples.captions[row] for row in rows],
        None if samples.labels is None else [samples.labels[row] for row in rows],
        {name: column[rows] for name, column in samples.columns.items()}, {},
        samples.target, samples.temperature, samples.seed, samples.device, samples.facts,
    )  # fmt: skip


def _with_columns(
    samples: Samples, added: Mapping[str, npt.NDArray[Any]], why: npt.NDArray[np.object_]
) -> Samples:
    """Return the samples with the columns of a family, and why rows have no score."""
    statuses = {**samples.statuses, **dict.fromkeys(added, why)}
    return replace(samples, columns={**samples.columns, **added}, statuses=statuses)


def _spread(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], n: int) -> npt.NDArray[Any]:
    """Return the values of some rows as a column over all n: NaN, None or 0 elsewhere."""
    rest = {"f": np.nan, "O": None}.get(values.dtype.kind, 0)
    full = np.full(n, rest, values.dtype)
    full[rows] = values
    return full
