"""What the invariants are checked on: the tables of a run that belong together, and what they add up to."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate import schema
from curate.errors import CurateError
from curate.io import storage
from curate.recipe.loading import load_recipe
from curate.runs.folder import RunFolder
from curate.runs.layout import stages_until
from curate.runs.run import StoredRun

__all__ = ["TOLERANCE", "Tables", "read", "same_uids", "violation"]

#: How far the length of a vector in half precision may be from 1, and a distance from where it can be.
TOLERANCE = 1e-3
#: In this order each stage works on what the ones before left.
CHAIN = tuple(stage for stage in stages_until("select") if stage != "score")


class Tables:
    """The tables of a run that can be compared with each other, and totals over their parts.

    changed : stages that are newer than the manifest. damaged : files whose bytes are already known to be wrong.
    current : the stages whose tables are about the same rows; a table that is older than one it was made from is
    left alone. sampled, decided : the parts that 0_samples (if it is current) and 5_decisions have. whole : whether every table was read so far, so that the totals are right.
    """

    def __init__(self, run: StoredRun, changed: frozenset[str], damaged: frozenset[Path]) -> None:
        self.run: RunFolder = run.folder
        self.manifest: dict[str, Any] = run.manifest()
        self.recipe = load_recipe(self.run.recipe)
        self.changed, self.damaged, self.whole = changed, damaged, True
        self.current = {
            stage
            for place, stage in enumerate(CHAIN)
            if self.run.marker(self.run.stage(stage)) is not None
            and (stage in changed or changed.isdisjoint(CHAIN[:place]))
        }
        self.sampled = self._parts_of(self.run.samples) if "embed" in self.current else ()
        self.decided = self._parts_of(self.run.decisions)
        self.reasons: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.rows = self.copies = 0
        self.assigned = np.zeros(self._count_concepts(self.run.concepts), np.int64)
        self.refitted = self.run.final_concepts != self.run.concepts
        k = self._count_concepts(self.run.final_concepts) if self.refitted else len(self.assigned)
        self.final, self.eligible, self.kept = (np.zeros(k, np.int64) for _ in range(3))

    def _parts_of(self, folder: Path) -> tuple[str, ...]:
        files = (self.run.marker(folder) or {"files": {}})["files"]
        return tuple(Path(name).stem.removeprefix("part-") for name in files if name.startswith("part-"))

    def _count_concepts(self, folder: Path) -> int:
        path = folder / "concepts.parquet"
        try:
            return int(storage.read_table(path, ["concept"]).num_rows)
        except CurateError:
            self.whole = False
            return 0

    def has(self, *paths: Path) -> bool:
        """Whether none of the files is damaged; if one is, the totals are not known."""
        good = not any(path in self.damaged for path in paths)
        self.whole &= good
        return good

    def path(self, folder: Path, part: str) -> Path:
        """Return the table of a part."""
        return self.run.part(folder, part)

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what a stage noted about itself."""
        return dict((self.run.marker(folder) or {}).get("facts", {}))


def read(path: Path, kind: pa.Schema) -> pl.DataFrame:
    """Return a table of a run; raises RunError unless it has these columns (`schema.LATER` aside) and no others."""
    table = schema.complete(storage.read_table(path), kind)
    return pl.DataFrame(schema.check(table, kind, str(path)))


def violation(where: Path, rule: str, wrong: pl.Series, shown: pl.Series) -> Iterator[str]:
    """Yield a line if any row is wrong (or null), with the first of them and what it holds."""
    rows = wrong.fill_null(True).arg_true()
    if len(rows):
        more = f" (and {len(rows) - 1:,} more rows)" if len(rows) > 1 else ""
        yield f"{where}: {rule}; row {rows[0]} has {shown[rows[0]]!r}{more}"


def same_uids(where: Path, expected: pl.Series, found: pl.Series) -> Iterator[str]:
    """Yield a line unless a table has the usable samples of a part, in their order."""
    rule = "must have one row per usable sample of 0_samples, in that order"
    if len(expected) != len(found):
        yield f"{where}: {rule}; {len(expected):,} are usable, {len(found):,} are here"
    else:
        yield from violation(where, rule, expected.ne_missing(found), found)
