"""SQL over the tables of a run, by Polars: lazily, so that only the columns and rows asked for are read."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from curate.analysis.summary.tables import part_names, score_folders
from curate.errors import RunError, UsageError
from curate.io.remote.cache import ensure_local, store_of
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["explained", "query", "tables"]

#: What a statement may begin with: those that only read.
READS = ("select", "with", "from", "show", "(")


def tables(run: RunFolder, sql: str) -> dict[str, "pl.LazyFrame"]:
    """Return the finished tables of a run by name. Numbers that are not finite are null.

    samples, embeddings (image and text as arrays), assignments, centroids, concepts (as fitted), scores (assignments
    with the columns of every family beside), filters, duplicates, decisions, budgets (the concepts as decided). The
    vectors of a run at a URL are fetched, and among the tables, only where `sql` names them.
    """
    import polars as pl

    parts = {
        "samples": run.samples, "filters": run.scores("filter"), "duplicates": run.duplicates,
        "decisions": run.decisions,
    }  # fmt: skip
    found = {name: part_names(run, folder) for name, folder in parts.items()}
    frames = {
        name: pl.concat([pl.scan_parquet(ensure_local(run.part(parts[name], part))) for part in names])
        for name, names in found.items()
        if names
    }
    fetched = store_of(run.path) is None or re.search(r"\bembeddings\b", sql, re.IGNORECASE)
    if fetched and (embedded := part_names(run, run.embeddings)):
        frames["embeddings"] = pl.concat(
            [pl.scan_ipc(ensure_local(run.part(run.embeddings, part))) for part in embedded]
        )
    if assigned := part_names(run, run.concepts):
        frames["assignments"] = pl.concat(
            [pl.scan_parquet(ensure_local(run.part(run.assignments, part))) for part in assigned]
        )
        frames["scores"] = pl.concat([_scores(run, part) for part in assigned])
        frames["concepts"] = pl.scan_parquet(ensure_local(run.concepts / "concepts.parquet"))
        frames["centroids"] = pl.scan_parquet(ensure_local(run.concepts / "centroids.parquet"))
    if "decisions" in frames:
        frames["budgets"] = pl.scan_parquet(ensure_local(run.decisions / "concepts.parquet"))
    return {name: _finite(frame) for name, frame in sorted(frames.items())}


def _scores(run: RunFolder, part: str) -> "pl.LazyFrame":
    """Return the assignments of a part with all scores beside: their rows are in one order, nothing is joined."""
    import polars as pl

    frames = [pl.scan_parquet(ensure_local(run.part(run.assignments, part)))]
    for folder in score_folders(run):
        path = run.part(run.scores(folder), part)
        if not path.exists():
            raise RunError(
                f"{path} is not there: the scores are older than the source; first: curate score {run.where}"
            )
        frames.append(pl.scan_parquet(ensure_local(path)).drop("uid"))
    return pl.concat(frames, how="horizontal")


def _finite(frame: "pl.LazyFrame") -> "pl.LazyFrame":
    """Return a table without NaN, which would pass every comparison and lead every order."""
    import polars as pl

    floats = [name for name, kind in frame.collect_schema().items() if kind.is_float()]
    return frame.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats
    )


def query(frames: Mapping[str, "pl.LazyFrame"], sql: str) -> "pl.LazyFrame":
    """Return what a SELECT over the tables gives, not collected yet; raises UsageError for what is none.

    Collect it inside of `explained`: what is wrong with a statement may show only then.
    """
    import polars as pl

    if not sql.strip().lower().startswith(READS):
        raise UsageError(f"--sql must be one SELECT statement, got {sql.strip()[:80]!r}; it only reads")
    with explained(frames, sql):
        found: pl.LazyFrame = pl.SQLContext(frames=dict(frames), eager=False).execute(sql)
        found.collect_schema()
        return found


@contextlib.contextmanager
def explained(frames: Mapping[str, "pl.LazyFrame"], sql: str) -> Iterator[None]:
    """Turn what Polars says of a statement into one line that names the tables, and the columns of those it reads."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.split("; valid columns")[0].rstrip(".;: ")
        named = [name for name in frames if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
        columns = [f"{name} has {', '.join(frames[name].collect_schema().names())}" for name in named]
        about = "; ".join([f"tables: {', '.join(frames) or 'none yet'}", *columns])
        raise UsageError(f"--sql: {reason}; {about}") from None
