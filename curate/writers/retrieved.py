"""What `curate retrieve` writes: the table of what was found, what is said of each name, and a list of uids for each."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from curate.errors import UsageError
from curate.io import publish, storage
from curate.runs.run import open_run
from curate.writers import subsets

if TYPE_CHECKING:
    from curate.analysis.retrieval.retrieve import Retrieved

#: Of a name in the name of a file, of which file systems take 255 with all that stands around it.
_NAME_BYTES = 120

__all__ = ["LISTS", "check_retrieved_place", "write_retrieved"]

#: Formats of the lists of uids, as `curate export` has them.
LISTS = {"txt": ".txt", "uids": ".parquet", "npy": ".npy"}


def check_retrieved_place(run: str | Path, out: str, form: str) -> publish.Place:
    """Return the folder to write to; raises UsageError if it holds other files, or for another format."""
    if form not in LISTS:
        raise UsageError(f"--format must be one of {', '.join(LISTS)}, got {form!r}")
    place = publish.Place("--out", out, open_run(run).folder.work)
    publish.require_own_folder(place)
    return place


def write_retrieved(found: "Retrieved", place: publish.Place, form: str) -> None:
    """Write `retrieved.parquet`, `concepts.parquet`, `summary.json`, and `uids/NAME` of each name (empty where nothing fits)."""
    fingerprint = storage.fingerprint("retrieved", found.concepts.to_dicts(), found.threshold)
    publish.write_folder(place, fingerprint, lambda folder: _write(found, folder, form))


def _write(found: "Retrieved", folder: Path, form: str) -> None:
    for name, frame in (("retrieved", found.rows), ("concepts", found.concepts)):
        with storage.atomic(folder / f"{name}.parquet") as partial:
            frame.write_parquet(partial)
    summary = {"threshold": found.threshold, **found.facts, "concepts": found.concepts.to_dicts()}
    storage.write_json(folder / "summary.json", summary)
    (folder / "uids").mkdir(exist_ok=True)
    width = len(str(len(found.concepts) - 1))
    for number, name in enumerate(found.concepts["concept"].to_list()):
        rows = found.rows.filter(pl.col("concept") == name)
        path = folder / "uids" / f"{number:0{width}}-{_plain(name)}{LISTS[form]}"
        uids = rows["uid"].to_list()
        if form == "txt":
            subsets.write_text(path, [uids])
        elif form == "uids":
            subsets.write_parquet(path, [(uids, rows["relevance"].cast(pl.Float32).to_numpy())])
        else:
            subsets.write_npy(path, [(uids, np.ones(len(uids), np.float32))], 0)


def _plain(name: str) -> str:
    """Return a name as part of the name of a file.

    >>> _plain("A red/blue hat!")
    'a_red_blue_hat'
    >>> len(_plain("\U00020000" * 99).encode())
    120
    """
    plain = re.sub(r"\W+", "_", name.casefold()).strip("_")[:60].encode()[:_NAME_BYTES]
    return plain.decode(errors="ignore").strip("_") or "name"
