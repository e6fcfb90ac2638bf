"""Stage `cluster`, where concepts are in levels: the fit, and the table of which concept is in which of those above."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.clustering.hierarchy import Resampling, ancestors, fit_levels
from curate.clustering.kmeans import Concepts
from curate.clustering.store import PARENTS, load_parents
from curate.execution.context import log
from curate.io import storage
from curate.recipe import Cluster

__all__ = ["fit_concepts", "level_facts", "there", "write_parents"]

Parents = tuple[npt.NDArray[np.int32], ...]


def fit_concepts(
    settings: Cluster, vectors: npt.NDArray[np.float32], wanted: int
) -> tuple[Concepts, Parents]:
    """Return the concepts of a sample, and those of the levels above that each one is in, (k,) per level.

    vectors : (n, d) unit rows in uid order. wanted : the number of concepts where there are no levels.
    """
    levels: tuple[int, ...] = (wanted,)
    resampling = Resampling(steps=0)
    if settings.levels is not None:
        members = None if settings.resample_members == "auto" else int(settings.resample_members)
        levels, resampling = settings.levels, Resampling(settings.resamples, members)
    tree = fit_levels(
        vectors, levels, seed=settings.seed, resampling=resampling, precision=settings.precision
    )
    for level, (asked, count) in enumerate(zip(levels, tree.sizes, strict=True), 1):
        if count < asked:
            log.warning(
                "cluster: %s concepts instead of %s%s: there are only so many different %s", count, asked,
                f" on level {level}" if len(levels) > 1 else "", "samples" if level == 1 else "concepts below",
            )  # fmt: skip
    return tree.finest, ancestors(tree.parents)


def write_parents(folder: Path, parents: Sequence[npt.NDArray[np.int32]], fingerprint: str) -> None:
    """Write which concepts of the levels above each concept is in, (k,) a level; where there are none, there is no table."""
    storage.remove(folder / PARENTS)
    if parents:
        columns = {"concept": np.arange(len(parents[0]), dtype=np.int32)}
        columns |= {f"concept_{level}": one for level, one in enumerate(parents, 2)}
        table = pa.table(columns)
        storage.write_parquet(folder / PARENTS, table, table.schema, fingerprint)


def there(folder: Path, settings: Cluster, fingerprint: str | None) -> bool:
    """Return whether the table of parents is there, and of this fit, if there is to be one."""
    if settings.levels is None or len(settings.levels) == 1:
        return True
    return storage.stored_fingerprint(folder / PARENTS) == fingerprint


def level_facts(folder: Path) -> dict[str, list[int]]:
    """Return the number of concepts of each level, the finest first; nothing where there is one level."""
    parents = load_parents(folder)
    return {"levels": [len(parents[0]), *(int(one.max()) + 1 for one in parents)]} if parents else {}
