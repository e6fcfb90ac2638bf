"""Delta tables: the files that the log says are live, without rows that a deletion vector names, read with deltalake."""

from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.sources.format import Format
from curate.sources.lake.live_files import NONE_DELETED, LiveFile, Snapshot, TableKind, TableReader
from curate.sources.lake.recognition import refuse

__all__ = ["FORMAT"]

#: What readers must know to read a table right, as far as this module does; others are refused by name.
KNOWN_FEATURES = frozenset(
    {
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "v2Checkpoint",
        "vacuumProtocolCheck",
        "variantType",
        "variantType-preview",
    }
)
#: What fsspec's s3 calls a setting, and what deltalake does.
S3_NAMES = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}


def snapshot(root: str, options: StorageOptions, version: str | None) -> Snapshot:
    """Return a Delta table at a version, the latest by default."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise refuse("delta", root) from None
    try:
        table = DeltaTable(root, None if version is None else int(version), _options(root, options))
        features = set(table.protocol().reader_features or ())
        mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        unknown = sorted(features - KNOWN_FEATURES | ({"columnMapping"} if mapped else set()))
        if unknown:
            raise refuse("delta", root, f"it uses {', '.join(unknown)}, which curate does not know")
        actions = pa.table(table.get_add_actions())
        vectors = _deletions(table.deletion_vectors()) if "deletionVectors" in features else {}
        schema = pa.schema(table.schema().to_arrow())
        number = table.version()
    except (DeltaError, OSError, ValueError) as error:
        said = filesystem.masked(filesystem.cause(error), options)
        raise SourceError(f"{root}: this Delta table cannot be read: {said}") from None
    files = {}
    wanted = [name for name in ("path", "partition") if name in actions.column_names]
    for row in actions.select(wanted).to_pylist():
        place = unquote(row["path"])
        url = place if filesystem.is_remote(place) or place.startswith("/") else f"{root}/{place}"
        deleted = vectors.get(_bare(url), NONE_DELETED)
        sign = digest(deleted.tobytes()) if len(deleted) else ""
        files[row["path"]] = LiveFile(row["path"], url, row.get("partition") or {}, sign)
    lost = vectors.keys() - {_bare(one.url) for one in files.values()}
    if lost:
        raise SourceError(f"{root}: rows are deleted from {min(lost)}, which is no file of this Delta table")
    return Snapshot(root, str(number), schema, files, lambda live: vectors.get(_bare(live.url), NONE_DELETED))


def _deletions(vectors: Any) -> dict[str, npt.NDArray[np.int64]]:  # noqa: ANN401  (an Arrow stream of deltalake)
    """Return {url of a file without its scheme: positions of its deleted rows}."""
    found = {}
    for batch in pa.RecordBatchReader.from_stream(vectors):
        for url, kept in zip(
            batch.column("filepath").to_pylist(), batch.column("selection_vector"), strict=True
        ):
            mask = kept.values.to_numpy(zero_copy_only=False).astype(bool)
            found[_bare(url)] = np.flatnonzero(~mask).astype(np.int64)
    return found


def _bare(url: str) -> str:
    """Return a url without its scheme, which is written in several ways for one file."""
    return unquote(url).rpartition("://")[2].lstrip("/")


def _options(root: str, options: StorageOptions) -> dict[str, str] | None:
    """Return options of an fsspec file system as deltalake takes them."""
    given = filesystem.resolve_options(options)
    if not filesystem.is_remote(root):
        return None
    scheme = root.split(":")[0].lower()
    if scheme not in ("s3", "s3a"):
        if not given and scheme not in ("memory", "hf"):
            return None  # deltalake then asks the environment
        raise UsageError(
            f"{root}: Delta tables are read from a disk or s3://, elsewhere only with what the environment gives; copy the "
            "table to a disk"
        )
    client = dict(given.get("client_kwargs") or {})
    found = {S3_NAMES[name]: str(given[name]) for name in S3_NAMES if given.get(name)}
    endpoint = given.get("endpoint_url") or client.get("endpoint_url")
    if endpoint:
        found["AWS_ENDPOINT_URL"] = str(endpoint)
        if str(endpoint).startswith("http://"):
            found["AWS_ALLOW_HTTP"] = "true"
    if client.get("region_name"):
        found["AWS_REGION"] = str(client["region_name"])
    if given.get("anon"):
        found["AWS_SKIP_SIGNATURE"] = "true"
    return found


KIND = TableKind("delta", snapshot)

FORMAT = Format(
    "delta",
    (),
    KIND.find,
    lambda columns, allow_url: TableReader(KIND, columns, allow_url),
    fingerprint=KIND.fingerprint,
    check_unchanged=KIND.check_unchanged,
    what="the live files of a Delta table, without deleted rows (`curate[delta]`)",
    rows="live rows",
)
