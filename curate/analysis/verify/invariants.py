"""Checking all invariants: part by part, then what needs all rows at once, then what they add up to."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.analysis import joins
from curate.analysis.joins import Joins
from curate.analysis.summary.counts import group_reasons
from curate.analysis.verify import part_invariants
from curate.analysis.verify.stage_tables import CHAIN, Tables, read, violation
from curate.clustering.store import PARENTS
from curate.deduplication.captions import caption_codes
from curate.errors import CurateError
from curate.io import storage
from curate.io.remote.cache import ensure_local
from curate.sources.base import Columns
from curate.sources.registry import format_of

__all__ = ["violations_of"]

#: Which uids there are, and which are named: `rows` with their occurrence, `named` by a decision, `compared` and
#: `points` (a duplicate's other row) with their concept; `captions` of those compared and `same_captions` of those that a
#: duplicate names, where near-duplicates with other captions stay.
_LINKS = {
    name: pa.schema([("uid", pa.string()), ("number", pa.int32())])
    for name in ("rows", "named", "compared", "points", "captions", "same_captions")
}

#: Rows that break a rule about all rows at once: what is named must be there, and a row only once.
_TWICE = "select c0 as uid from rows group by c0, c1 having count(*) > 1"
_NOWHERE = "select c0 as uid from named anti join rows using (c0)"
_NOT_COMPARED = "select c0 as uid from points anti join compared using (c0, c1)"
_OTHER_CAPTION = "select c0 as uid from same_captions anti join captions using (c0, c1)"


def violations_of(tables: Tables) -> list[str]:
    """Return every violation, one line each: `<file>: <rule>; <the first row that breaks it>`."""
    found = list(_of_manifest(tables))
    with joins.opened(tables.recipe.memory // 2, **_LINKS) as links:
        for part in dict.fromkeys((*tables.sampled, *tables.decided)):
            found += _guarded(tables, _of_part(tables, part, links))
        if tables.whole:
            found += _of_uids(tables, links)
    for invariant in (_of_concepts, _of_budgets, _of_totals) if tables.whole else ():
        found += _guarded(tables, invariant(tables))
    return [*found, *_guarded(tables, _of_shards(tables))]


def _guarded(tables: Tables, lines: Iterator[str]) -> Iterator[str]:
    """Yield violations; a file that cannot be read is one of them, and ends the totals."""
    try:
        yield from lines
    except CurateError as error:
        tables.whole = False
        yield str(error)


def _of_manifest(tables: Tables) -> Iterator[str]:
    """Check that the counts of the manifest add up, and its parts are those that are decided."""
    where, counts = tables.run.manifest, tables.manifest["counts"]
    total = counts["kept"] + sum(counts["dropped"].values()) + sum(counts["unusable"].values())
    if counts["rows"] != total:
        yield f"{where}: rows in must be kept + dropped + unusable = {total:,}, got {counts['rows']:,}"
    rows = sum(row["rows"] for row in tables.manifest["parts"])
    if counts["rows"] != rows:
        yield f"{where}: counts.rows must be the rows of all parts = {rows:,}, got {counts['rows']:,}"
    differ = {row["name"] for row in tables.manifest["parts"]} ^ set(tables.decided)
    if differ and tables.changed.isdisjoint(CHAIN):
        yield f"{where}: its parts must be those of 5_decisions; {min(differ)} is in one of them only"


def _of_part(tables: Tables, part: str, links: Joins) -> Iterator[str]:
    """Check one part: its decisions, its samples, and the tables that have a row per usable sample."""
    run, decisions = tables.run, pl.DataFrame(schema.DECISIONS.empty_table())
    if part in tables.decided:
        if not tables.has(path := tables.path(run.decisions, part)):
            return
        decisions = read(path, schema.DECISIONS)
        yield from part_invariants.of_decisions(tables, part, decisions)
        links.add("rows", decisions.select("uid", "occurrence").to_arrow())
        named = decisions.filter(pl.col("duplicate_of").is_not_null())
        links.add("named", named.select("duplicate_of", pl.lit(0, pl.Int32)).to_arrow())
    if part in tables.sampled and tables.has(path := tables.path(run.samples, part)):
        samples = read(path, schema.SAMPLES)
        yield from part_invariants.of_samples(tables, part, samples)
        if "select" in tables.current:
            yield from part_invariants.same_rows(tables, part, samples, decisions)
            if len(samples) == len(decisions):
                yield from part_invariants.of_overrides(tables, part, samples, decisions)
        usable = samples.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
        yield from _of_usable(tables, part, usable, decisions, links)


def _of_usable(
    tables: Tables, part: str, samples: pl.DataFrame, decisions: pl.DataFrame, links: Joins
) -> Iterator[str]:
    usable = samples["uid"]
    yield from part_invariants.of_embeddings(tables, part, usable)
    if "cluster" in tables.current:
        yield from part_invariants.of_assignments(tables, part, usable)
    yield from part_invariants.of_scores(tables, part, usable)
    if "filter" in tables.current:
        yield from part_invariants.of_filter(tables, part, usable, decisions)
    if "dedup" in tables.current:
        for one in part_invariants.of_duplicates(tables, part, usable, decisions):
            if isinstance(one, pl.DataFrame):
                links.add("compared", one.select("uid", "concept").to_arrow())
                points = one.filter(pl.col("duplicate_of").is_not_null())
                links.add("points", points.select("duplicate_of", "concept").to_arrow())
                if not tables.recipe.dedup.across_captions:
                    _link_captions(samples, one, links)
            else:
                yield one


def _link_captions(samples: pl.DataFrame, compared: pl.DataFrame, links: Joins) -> None:
    """Note the captions of compared rows, and of the duplicates among them by the row they name."""
    code = (caption_codes(samples) % 2**31).cast(pl.Int32)
    known = compared.join(samples.select("uid", code), on="uid", how="left")
    links.add("captions", known.select("uid", "caption_code").to_arrow())
    near = known.filter(pl.col("duplicate_of").is_not_null())
    links.add("same_captions", near.select("duplicate_of", "caption_code").to_arrow())


def _of_uids(tables: Tables, links: Joins) -> Iterator[str]:
    """Check that a row is there once, and what it is a duplicate of is there too."""
    decisions, duplicates = tables.run.decisions, tables.run.duplicates
    for where, rule, wrong in (
        (decisions, "a uid and occurrence must be there once", _TWICE),
        (decisions, "duplicate_of must be a uid of the run", _NOWHERE),
        (duplicates, "duplicate_of must be a compared row of the same concept", _NOT_COMPARED),
        (
            duplicates,
            "duplicate_of must be a row with the same caption (dedup.across_captions)",
            _OTHER_CAPTION,
        ),
    ):
        count, first = links.row(f"select count(distinct uid), min(uid) from ({wrong})")
        if count:
            yield f"{where}: {rule}; it is not so for {count:,} uids, such as {first!r}"


def _of_concepts(tables: Tables) -> Iterator[str]:
    """Check that the table of concepts counts the rows assigned, and that each has a centroid."""
    if "cluster" not in tables.current:
        return
    yield from _counted(tables, tables.run.concepts, tables.assigned)
    if tables.refitted and "select" in tables.current:
        yield from _counted(tables, tables.run.final_concepts, tables.final)


def _counted(tables: Tables, folder: Path, counts: npt.NDArray[np.int64]) -> Iterator[str]:
    """Check one clustering. counts : (k,) rows of its assignments."""
    path = folder / "concepts.parquet"
    frame = read(path, schema.CONCEPTS)
    order = pl.Series(np.arange(len(frame), dtype=np.int32))
    yield from violation(
        path, "concept must count from 0", frame["concept"].ne_missing(order), frame["concept"]
    )
    if "embed" in tables.current:
        wrong = frame["n_assigned"].ne_missing(pl.Series(counts))
        yield from violation(
            path, f"n_assigned must be the rows in {folder.name}/assignments", wrong, frame["n_assigned"]
        )
    centroids = folder / "centroids.parquet"
    if tables.has(centroids) and (count := len(read(centroids, schema.CENTROIDS))) != len(frame):
        yield f"{centroids}: must have one centroid per concept, {len(frame):,}, got {count:,}"
    if (folder / PARENTS).exists() and tables.has(folder / PARENTS):
        yield from _of_levels(folder / PARENTS, frame["concept"])


def _of_levels(path: Path, concept: pl.Series) -> Iterator[str]:
    """Check that every concept is in one of each level above, and all that is in one of them in one of the next."""
    levels = pl.DataFrame(storage.read_table(path))
    if not levels["concept"].equals(concept):
        yield f"{path}: must have one row per concept, in order"
    for below, above in itertools.pairwise(levels.columns):
        torn = levels.group_by(below).agg(pl.col(above).n_unique()).filter(pl.col(above) != 1)
        ids = levels[above].unique().sort().to_list()
        if len(torn) or ids != list(range(len(ids))):
            yield f"{path}: {above} must count from 0, and be one for each {below}"


def _of_budgets(tables: Tables) -> Iterator[str]:
    """Check that budgets and counts of concepts are those of the decisions, and not more than the target."""
    path = tables.run.budgets
    if not {"cluster", "select"} <= tables.current or not tables.has(path):
        return
    frame = read(path, schema.DECISION_CONCEPTS)
    if len(frame) != len(tables.kept):
        yield f"{path}: must have one row per concept, {len(tables.kept):,}, got {len(frame):,}"
        return
    for name, counted in (("n_eligible", tables.eligible), ("kept", tables.kept)):
        wrong = frame[name].ne_missing(pl.Series(counted))
        yield from violation(path, f"{name} must be what the decisions say", wrong, frame[name])
    over = frame["kept"] > frame["budget"]
    yield from violation(path, "kept must be at most budget", over, frame["kept"])
    budget, kept = int(frame["budget"].sum()), int(frame["kept"].sum())
    if budget != kept:
        yield f"{path}: budgets must add up to the rows kept, {kept:,}, got {budget:,}"
    facts = tables.facts(tables.run.decisions)
    first = facts.get("pinned", 0) + facts.get("first", {}).get("floor_rows", 0)
    target = frame["target"].sum() + first
    if frame["target"].null_count() == 0 and kept > target + 0.5:
        said = "the rows kept must be at most the targets, pinned rows and those of floors"
        yield f"{path}: {said}, {target:,.1f}, got {kept:,}"


def _of_totals(tables: Tables) -> Iterator[str]:
    """Check that the manifest and the marks say what the tables add up to."""
    run, counts = tables.run, group_reasons(tables.reasons)
    if tables.changed.isdisjoint(CHAIN) and counts != tables.manifest["counts"]:
        names = [name for name in counts if counts[name] != tables.manifest["counts"].get(name)]
        stated = tables.manifest["counts"].get(names[0])
        yield f"{run.manifest}: the decisions do not match its counts; {names[0]} is {stated}, found {counts[names[0]]}"
    known = {run.decisions: {"kept": counts["kept"], "eligible": int(tables.eligible.sum())}}
    if "embed" in tables.current:
        usable = tables.outcomes["ok"]
        rows = sum(tables.outcomes.values())
        known[run.embeddings] = {
            "rows": rows,
            "usable": usable,
            "copies": tables.copies,
            "unusable": rows - usable,
        }
    if {"embed", "cluster"} <= tables.current:
        known[run.concepts] = {"samples": int(tables.assigned.sum()), "concepts": len(tables.assigned)}
    if not {"cluster", "select"} <= tables.current:
        del known[run.decisions]["eligible"]
    for folder, numbers in known.items():
        for name, number in numbers.items():
            stated = tables.facts(folder).get(name, number)
            if stated != number:
                where = (
                    "the decisions do not match its mark"
                    if folder == run.decisions
                    else "it does not match its mark"
                )
                yield f"{folder}: {where}; {name} is {stated:,}, found {number:,}"


def _of_shards(tables: Tables) -> Iterator[str]:
    """Check that the shards hold as many rows as were kept when they were written."""
    folder = tables.run.filtered
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".parquet", ".tar"))
    if "write" in tables.changed or any(folder in path.parents for path in tables.damaged):
        return
    rows = sum(_count(path) for path in files)
    kept, stated = tables.manifest["counts"]["kept"], tables.facts(folder).get("rows")
    if not rows == kept == stated:
        yield f"{folder}: must hold the rows that are kept, {kept:,} (its mark says {stated}), got {rows:,}"


def _count(path: Path) -> int:
    """Return the rows of an output shard."""
    if path.suffix == ".parquet":
        try:
            return int(pq.read_metadata(ensure_local(path)).num_rows)
        except (OSError, pa.ArrowInvalid) as error:
            raise CurateError(f"{path}: not a whole Parquet file ({error})") from error
    tar = format_of("webdataset")
    return sum(tar.reader(Columns(), False).count(shard) for shard in tar.find([str(ensure_local(path))]))
