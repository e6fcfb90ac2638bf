"""The whole recipe."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_serializer, model_validator

from curate.io.remote.cache import DEFAULT_BYTES
from curate.recipe.dedup import Cluster, Dedup
from curate.recipe.embed import Embed
from curate.recipe.evaluate import Evaluate
from curate.recipe.limits import StageTimes
from curate.recipe.notify import Notify
from curate.recipe.scores import Family, dumped, tagged
from curate.recipe.select import ScoreFilter, Select, Weight
from curate.recipe.types import (
    Bytes,
    Settings,
    Share,
    Target,
    count_or_auto,
    default_memory,
    enough_memory,
    listed,
)
from curate.scores.clip_score import ClipScore
from curate.sources.settings import Source, StorageOptions

__all__ = ["Card", "Limits", "Ray", "Recipe", "Remote", "Report", "Write"]


#: How select.method auto takes copies out. Near-duplicates whose captions differ stay: what the captions tell apart is
#: what is to be learnt (dropping them lost 7 points of recall on emoji).
AUTO_DEDUP = {"epsilon": "auto", "across_captions": False}
#: What select.method auto scores besides: which labels and captions are wrong, where there are any.
AUTO_SCORE = (
    "clip_score",
    {"heads": {"preset": "fast", "labels": "label", "required": False}},
    {"pair": {"el2n": False, "grand": False, "required": False}},
)


def _mapping(section: object) -> Mapping[str, object]:
    return section if isinstance(section, Mapping) else {}


def _cluster(value: str) -> str:
    """Return the address of a cluster, not that of a Ray client: a run is part of the cluster it works on."""
    if "://" in value:
        raise ValueError(f"must be auto or host:port of a cluster this machine belongs to, got {value!r}")
    return value


def _web_folder(value: str) -> str:
    """Return the address of a folder on a web server: one that paths can be put behind, without a secret."""
    if not re.fullmatch(r"https?://[^/\s?#@<>()]+(/[^\s?#<>()]*)?", value):
        raise ValueError(
            f"must be an http(s) address of a folder, without a password, ? and #, got {value!r}"
        )
    return value


class Card(Settings):
    """What the header of the card beside the shards says: a license (as Hugging Face names it) and tags."""

    license: Annotated[str, Field(min_length=1)] | None = None
    tags: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()


class Write(Settings):
    """The filtered shards: format, size, extra columns, and a second place (or URL) to copy them to.

    weight_groups : with tars, the number of groups by weight (none: rows stay in their order). dropped : a
    folder for the rows that are not kept, as Parquet with the reason. schemas : what becomes of shards whose columns
    differ in type: joined where a type holds the values of all (join), or written by themselves as
    `train_schema2-*.parquet` (apart). relabel : where labels that people put right stand: in the columns `label_corrected`
    and `label_check` (beside), or in the column of labels itself (in_place). storage_options : to open URLs with.
    """

    format: Literal["parquet", "webdataset"] = "parquet"
    max_shard_size: Annotated[Bytes, Field(ge=1)] = 500_000_000
    path: Target | None = None
    columns: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    weight_groups: Annotated[int, Field(ge=1, le=1000)] | None = None
    dropped: Target | None = None
    card: Card = Card()
    schemas: Literal["join", "apart"] = "join"
    relabel: Literal["beside", "in_place"] = "beside"
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _places(self) -> Self:
        if self.weight_groups is not None and self.format != "webdataset":
            raise ValueError(f"takes weight_groups with format webdataset, got {self.format}")
        if self.relabel == "in_place" and self.format == "webdataset":
            raise ValueError("takes relabel in_place with format parquet: members of tars stay as they are")
        if self.dropped is not None and self.dropped == self.path:
            raise ValueError(f"needs path and dropped in folders of their own, got {self.path} for both")
        return self


class Remote(Settings):
    """How a run folder at a URL is reached: run: s3://bucket/runs/laion.

    storage_options : to open the URL with. cache : what its files may take on each machine that works on it. lock :
    whether the URL is held while it is written; false where nobody else writes there and the store keeps no lock.
    """

    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    cache: Annotated[Bytes, Field(ge=10**8)] = DEFAULT_BYTES
    lock: bool = True


class Ray(Settings):
    """The cluster of `engine: ray`. address : `auto` or `host:port` of one that is there; null starts one here.

    retries : processes or machines that may die with one piece of work before the run fails.
    """

    address: Annotated[str, Field(min_length=1), AfterValidator(_cluster)] | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 3


class Limits(Settings):
    """How much may go wrong before a run counts as failed, and how long a stage may take.

    time : a duration for every stage, or {stage: duration}; a stage beyond it is ended.
    """

    unusable: Share = 0.05
    bad_shards: Annotated[int, Field(ge=0)] = 0
    time: StageTimes | None = None


class Report(Settings):
    """What the report shows besides, and where people find it.

    by : columns of the source by whose values it counts rows and kept rows. url : where a web server of yours shows the
    folder `run`; the artifact of a Prefect flow links there.
    """

    by: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()
    url: Annotated[str, AfterValidator(_web_folder)] | None = None


class Recipe(Settings):
    """A whole recipe. `run`, `remote`, `memory`, `engine`, `ray` and `workers` never change a result."""

    run: Target
    source: Annotated[tuple[Source, ...], BeforeValidator(listed), Field(min_length=1)]
    embed: Embed = Field(default_factory=lambda: Embed.model_validate({}))
    cluster: Cluster = Cluster()
    score: Annotated[tuple[Family, ...], BeforeValidator(tagged)] = (ClipScore(),)
    filter: Annotated[tuple[str | ScoreFilter, ...], BeforeValidator(listed)] = ()
    pin: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    exclude: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    only: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    dedup: Dedup = Dedup()
    select: Select
    weight: Weight = None
    write: Write = Write()
    evaluate: Evaluate | None = None
    report: Report = Report()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    remote: Remote = Field(default_factory=Remote)
    memory: Annotated[Bytes, AfterValidator(enough_memory)] = Field(default_factory=default_memory)
    engine: Literal["local", "ray"] = "local"
    ray: Ray = Ray()
    workers: Annotated[Literal["auto"] | int, BeforeValidator(count_or_auto)] = "auto"
    limits: Limits = Limits()
    notify: Notify | None = None

    @model_validator(mode="before")
    @classmethod
    def _auto_without_faults(cls, values: object) -> object:
        """Let the method for people who do not know find near-duplicates and noise, where the recipe says nothing of them.

        Nobody asked for near-duplicates to go, so a budget they leave too few for is no error (`select.at_most`).
        """
        if not isinstance(values, Mapping):
            return values
        select, dedup = _mapping(values.get("select")), _mapping(values.get("dedup"))
        cluster, embed = _mapping(values.get("cluster")), _mapping(values.get("embed"))
        pictures = cluster.get("on") != "text" and embed.get("column") is None and embed.get("files") is None
        if select.get("method") != "auto" or not pictures:
            return values
        found = {"score": AUTO_SCORE, **values}
        if "epsilon" not in dedup:
            found |= {"select": {"at_most": True, **select}, "dedup": {**AUTO_DEDUP, **dedup}}
        return found

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [source.name for source in self.source]
        if len(set(names)) < len(names):
            raise ValueError(f"needs sources of different names, got {', '.join(names)}; set source.name")
        return self

    @model_validator(mode="after")
    def _calibrated(self) -> Self:
        if self.dedup.epsilon != "auto":
            return self
        why = None
        if self.embed.own_vectors:
            why = "there is no model for vectors of your own"
        elif self.cluster.on == "text":
            why = "captions are compared (cluster.on text)"
        if why is not None:
            raise ValueError(
                f"dedup.epsilon auto embeds altered images with the model of the run, and {why}; give it a number that "
                "fits these vectors, or {drop: 0.2} for the share to drop"
            )
        return self

    @model_validator(mode="after")
    def _families(self) -> Self:
        folders = [family.folder for family in self.score]
        twice = next((name for name in folders if folders.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"score must name each family once, got {twice} twice")
        return self

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.dedup.blocks is not None and self.cluster.given is not None:
            raise ValueError(
                "dedup.blocks must be none with cluster.given: a given clustering serves for comparing and for selecting"
            )
        return self

    @field_serializer("score")
    def _as_written(self, score: tuple[Family, ...]) -> list[object]:
        return [dumped(family) for family in score]

    @property
    def counted_by(self) -> tuple[str, ...]:
        """The columns of the source that rows are grouped or counted by."""
        named = (*self.select.grouped_by, *self.report.by)
        return tuple(
            dict.fromkeys(name for name in named if name not in ("label", "source", "split", "concept"))
        )

    def to_yaml(self) -> str:
        """Return the recipe with every setting filled in, without secrets; `${ENV}` stays as it is."""
        later = (
            {"report"} if self.report == Report() else set()
        )  # recipes of runs made before stay as they are
        values = self.model_dump(mode="json", exclude=later)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
