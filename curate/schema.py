"""Name and type of every column of every table in a run folder, and the check of a table.

All tables are keyed by `uid`. Rows of one shard's part stand in the same order in every table.
"""

import pyarrow as pa

from curate.errors import RunError

__all__ = [
    "ASSIGNMENTS",
    "CENTROIDS",
    "CONCEPTS",
    "DECISIONS",
    "DECISION_CONCEPTS",
    "DUPLICATES",
    "FILTER",
    "KEPT_REASONS",
    "KEYS",
    "LATER",
    "OUTCOMES",
    "PASSING",
    "SAMPLES",
    "check",
    "complete",
    "embeddings",
]

#: Outcomes of reading a sample. Everything but `ok` makes the row unusable.
OUTCOMES = {
    "ok": "read and embedded",
    "missing_image": "the image is null, empty, or its file does not exist",
    "broken_image": "the image cannot be decoded",
    "unsupported_format": "there is no decoder for the format of the image",
    "too_large": "the image has more pixels than allowed",
    "decoder_failed": "the decoder crashed on this image, or needs more memory than embed.decode_memory",
    "decode_timeout": "the decoder was not done after minutes; the next run tries again",
    "decoder_killed": "the machine ended the decoder (out of memory?); the next run tries again",
    "no_caption": "there is neither an image nor a caption to embed",
    "bad_vector": "the given vector is null, zero, not finite, or of the wrong length",
    "refused_path": "the image path leads outside the source folder",
    "bad_row": "the row itself cannot be read",
    "duplicate_key": "an earlier sample of the shard has this key",
    "split_sample": "the members of this sample are not next to each other",
    "truncated": "the file ends within this sample",
    "failed_download": "the downloader says that it could not get the image",
    "forgotten": "taken out of the run for good (curate forget)",
}

#: Outcomes that are the machine's doing, not the row's: the next run tries these rows again.
PASSING = ("decode_timeout", "decoder_killed")

#: Scratch of the read stage: what a row says of itself before anything is decoded.
KEYS = pa.schema(
    [
        ("uid", pa.string()),
        ("content", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("image_hash", pa.string()),
        ("caption_hash", pa.string()),
        ("bytes", pa.int64()),
        ("caption", pa.string()),
        ("caption_length", pa.int32()),
        ("label", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
    ]
)

#: One row per row read (per occurrence of a sample). image_hash is of the image as its row says it (bytes, path or
#: vector), content_hash of its bytes, null where none were read.
SAMPLES = pa.schema(
    [
        ("uid", pa.string()),
        ("occurrence", pa.int32()),
        ("copy_of", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("image_hash", pa.string()),
        ("content_hash", pa.string()),
        ("caption_hash", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("caption_length", pa.int32()),
        ("label", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
    ]
)

CENTROIDS = pa.schema([("concept", pa.int32()), ("centroid", pa.list_(pa.float32()))])

CONCEPTS = pa.schema(
    [
        ("concept", pa.int32()),
        ("n_fit", pa.int64()),
        ("n_assigned", pa.int64()),
        ("p99_distance", pa.float32()),
    ]
)

ASSIGNMENTS = pa.schema([("uid", pa.string()), ("concept", pa.int32()), ("distance", pa.float32())])

#: filter_reason is null where the row passed, else why it did not. Pinned rows always pass. same_content_as is the uid
#: of the sample whose exact copy it is, although its uid is another.
FILTER = pa.schema(
    [
        ("uid", pa.string()),
        ("filter_reason", pa.string()),
        ("pinned", pa.bool_()),
        ("same_content_as", pa.string()),
        ("spared", pa.string()),
    ]
)

#: Columns that tables made before there was such a column do not have: they are read as null.
LATER = ("content_hash", "same_content_as", "spared")

#: One row per compared row; subconcept is 0 unless the concept was split for comparing.
DUPLICATES = pa.schema(
    [
        ("uid", pa.string()),
        ("concept", pa.int32()),
        ("subconcept", pa.int32()),
        ("max_similarity_earlier", pa.float32()),
        ("duplicate_of", pa.string()),
        ("similarity", pa.float32()),
    ]
)

#: Reasons of rows that are kept; all others say why a row is not. Those that end in `:override` are decisions of people.
KEPT_REASONS = ("kept", "pinned", "spared", "kept:override")

#: One row per row read. rank counts from 1 inside the concept, in the order of keeping. inclusion_prob is the
#: probability with which an eligible row was to be kept, null where it has no closed form.
DECISIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("occurrence", pa.int32()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("keep", pa.bool_()),
        ("weight", pa.float32()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("concept", pa.int32()),
        ("distance", pa.float32()),
        ("rank", pa.int32()),
        ("inclusion_prob", pa.float32()),
        ("random_control", pa.bool_()),
    ]
)

DECISION_CONCEPTS = pa.schema(
    [
        ("concept", pa.int32()),
        ("n_eligible", pa.int64()),
        ("d_intra", pa.float64()),
        ("d_inter", pa.float64()),
        ("complexity", pa.float64()),
        ("probability", pa.float64()),
        ("target", pa.float64()),
        ("budget", pa.int64()),
        ("kept", pa.int64()),
        ("at_cap", pa.bool_()),
        ("at_floor", pa.bool_()),
        ("effective", pa.float64()),
    ]
)


def embeddings(dim: int, *, text: bool) -> pa.Schema:
    """Return the schema of an embeddings part: unit vectors in half precision.

    `text` is null where a sample has no caption; the column is absent where nothing has one.
    """
    vector = pa.list_(pa.field("item", pa.float16(), nullable=False), dim)
    fields = [pa.field("uid", pa.string()), pa.field("image", vector)]
    return pa.schema([*fields, pa.field("text", vector)] if text else fields)


def complete(table: pa.Table, kind: pa.Schema) -> pa.Table:
    """Return a table of a run with the columns of `kind` that it was made before (`LATER`), null in every row."""
    for place, field in enumerate(kind):
        if field.name in LATER and field.name not in table.column_names:
            table = table.add_column(place, field, pa.nulls(len(table), field.type))
    return table


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return `table` unchanged if its columns are exactly those of `schema`, in order.

    Raises RunError naming `where` and the first column that differs.
    """
    for position, field in enumerate(schema):
        if position >= table.num_columns or table.schema.field(position).name != field.name:
            found = ", ".join(table.column_names)
            raise RunError(f"{where}: column {field.name!r} expected at place {position}, found {found}")
        got = table.schema.field(position).type
        if got != field.type:
            raise RunError(f"{where}: column {field.name!r} must be {field.type}, found {got}")
    if table.num_columns > len(schema):
        extra = ", ".join(table.column_names[len(schema) :])
        raise RunError(f"{where}: unexpected columns {extra}")
    return table
