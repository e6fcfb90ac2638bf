"""The card of a filtered data set: README.md with the header that Hugging Face reads, and how it came about."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import yaml

from curate.io.names import in_markdown, printable
from curate.sources.columns import declared_features
from curate.writers.schema import HF_DTYPES

__all__ = ["CardFacts", "card", "published_path", "published_recipe", "size_category"]

_SIZES = {
    "n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7,
    "10M<n<100M": 10**8, "100M<n<1B": 10**9, "1B<n<10B": 10**10, "10B<n<100B": 10**11, "100B<n<1T": 10**12,
}  # fmt: skip
#: What Hugging Face takes as the name of a split.
_SPLIT = re.compile(r"\w+(\.\w+)*")
#: Settings that say where and how fast, not what: the same data set has the same card.
_PRIVATE = {
    "": ("run", "memory", "engine", "ray", "workers"),
    "source": ("storage_options",),
    "embed": ("device",),
    "write": ("path", "dropped", "storage_options"),
}


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    splits : {split: (pattern of its files, rows, bytes)}. schema : of the shards, None where they are tars. counts :
    as the stage `report` groups them. provenance : further lines, name to value. license, tags : for the header.
    """

    splits: Mapping[str, tuple[str, int, int]]
    schema: pa.Schema | None
    counts: Mapping[str, Any]
    recipe: Mapping[str, Any]
    provenance: Mapping[str, object] = field(default_factory=dict)
    license: str | None = None
    tags: Sequence[str] = ()


def size_category(rows: int) -> str:
    """Return the size class of Hugging Face that a number of rows is in.

    >>> size_category(0), size_category(1000), size_category(10**12)
    ('n<1K', '1K<n<10K', 'n>1T')
    """
    return next((name for name, end in _SIZES.items() if rows < end), "n>1T")


def published_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe that a card shows."""
    shown = {name: value for name, value in recipe.items() if name not in _PRIVATE[""]}
    for part in ("source", "embed", "write"):
        groups = shown.get(part)
        cut = [
            {name: value for name, value in one.items() if name not in _PRIVATE[part]}
            for one in (groups if isinstance(groups, list | tuple) else [groups or {}])
        ]
        shown[part] = cut if isinstance(groups, list | tuple) else cut[0]
    return {name: _published(value) for name, value in shown.items()}


def published_path(path: str) -> str:
    """Return a path as a card shows it: of an absolute one the last two parts, for the rest is of one machine.

    >>> published_path("/home/me/data/train/*.parquet"), published_path("s3://lake/train/*.parquet")
    ('train/*.parquet', 's3://lake/train/*.parquet')
    """
    return printable("/".join(PurePath(path).parts[-2:]) if PurePath(path).is_absolute() else path)


def _published(value: object) -> object:
    """Return a setting, or settings in settings, with every absolute path cut short."""
    if isinstance(value, Mapping):
        return {name: _published(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_published(one) for one in value]
    return published_path(value) if isinstance(value, str) else value


def card(facts: CardFacts) -> str:
    """Return the text of README.md."""
    rows = sum(count for _, count, _ in facts.splits.values())
    header: dict[str, Any] = {} if facts.license is None else {"license": facts.license}
    header |= {"tags": list(facts.tags)} if facts.tags else {}
    header["size_categories"] = [size_category(rows)]
    usable = all(_SPLIT.fullmatch(split) for split in facts.splits)
    if facts.splits and usable:
        files = [{"split": split, "path": pattern} for split, (pattern, *_) in facts.splits.items()]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    if facts.schema is not None and facts.splits and usable:
        counts = [
            {"name": split, "num_bytes": size, "num_examples": count}
            for split, (_, count, size) in facts.splits.items()
        ]
        features = _features(facts.schema)
        header["dataset_info"] = ({"features": features} if features else {}) | {"splits": counts}
    recipe = yaml.safe_dump(dict(facts.recipe), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n",
        f"# Filtered data set\n\n{rows:,} of {facts.counts['rows']:,} rows, chosen by curate.\n",
        f"## Counts\n\n{_counts(facts.counts)}",
        f"## Columns\n\n{_columns(facts.schema)}" if facts.schema is not None else "",
        f"## Provenance\n\n{_lines(facts.provenance)}",
        f"## Recipe\n\n{_fenced(recipe)}",
    ]
    return "\n".join(section for section in sections if section)


def _counts(counts: Mapping[str, Any]) -> str:
    lines = [("rows in", counts["rows"]), ("kept", counts["kept"])]
    lines += [
        (f"of these {why}", counts[why]) for why in ("pinned", "spared", "kept:override") if counts.get(why)
    ]
    for group in ("dropped", "unusable"):
        lines += [(f"{group}: {name}", number) for name, number in counts[group].items()]
    return "| | rows |\n|---|---:|\n" + "".join(
        f"| {in_markdown(name)} | {number:,} |\n" for name, number in lines
    )


def _columns(schema: pa.Schema) -> str:
    shown = (f"| {in_markdown(one.name)} | {in_markdown(str(one.type))} |\n" for one in schema)
    return "| column | type |\n|---|---|\n" + "".join(shown)


def _lines(provenance: Mapping[str, object]) -> str:
    return "".join(
        f"- {in_markdown(name)}: {in_markdown(str(value))}\n" for name, value in provenance.items()
    )


def _fenced(text: str) -> str:
    """Return a block of YAML whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}yaml\n{text}{fence}\n"


def _features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the columns as Hugging Face lists them; nothing unless every one of them is simple.

    What the header says overrules the files, so a guess is worse than silence: the files say it themselves.
    """
    declared = declared_features(schema.metadata)
    found = [_feature(one, declared.get(one.name)) for one in schema]
    return [] if None in found else [one for one in found if one is not None]


def _feature(column: pa.Field, declared: object) -> dict[str, Any] | None:
    if isinstance(declared, dict):
        kind = declared.get("_type")
        if kind == "Value" and set(declared) <= {"_type", "dtype", "id"}:
            return {"name": column.name, "dtype": declared.get("dtype")}
        if kind == "Image" and set(declared) <= {"_type", "id"}:
            return {"name": column.name, "dtype": "image"}
        if kind == "ClassLabel" and isinstance(declared.get("names"), list):
            names = {str(place): name for place, name in enumerate(declared["names"])}
            return {"name": column.name, "dtype": {"class_label": {"names": names}}}
        return None
    dtype = "binary" if column.type == pa.binary() else HF_DTYPES.get(column.type)
    return None if dtype is None else {"name": column.name, "dtype": dtype}
