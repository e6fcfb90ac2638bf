"""Conditions on columns of the source, read from the shards in any format that has columns."""

import csv
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.errors import CurateError, RecipeError, UsageError
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns, values_of
from curate.filtering.sql import MOST_OPERATORS, check_conditions, failed_condition
from curate.pipeline import runner
from curate.pipeline.source_schemas import SourceSchemas
from curate.pipeline.stages.filter import check_recipe
from curate.recipe.loading import parse_recipe
from curate.sources.registry import format_of
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.tars import member, save, tar

ROWS = 2_500  # several batches of each reader
FRAME = pl.DataFrame({"uid": ["a", "b", "c"], "label": ["1", "n/a", "3"]})


def values(row):
    """What row `row` of every source here holds."""
    return {"nsfw": None if row % 7 == 0 else ("UNLIKELY", "LIKELY")[row % 2], "year": 2000 + row % 30}


def shard_of(folder, form):
    rows = [{"image": f"{row}.jpg", **values(row)} for row in range(ROWS)]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=700)
    elif form == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        with (folder / "a.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parts = [[member(f"{row}.jpg", b"x"), member(f"{row}.cls", str(row).encode())]
                 for row in range(ROWS)]  # fmt: skip
        save(folder, tar(*(one for pair in parts for one in pair)), "a.tar")
    suffix = {"webdataset": "tar"}.get(form, form)
    (shard,) = format_of(form).find(str(folder / f"a.{suffix}"))
    return shard


def beside(shard, rows, names, batch_bytes=10_000):
    fields = find_columns([shard], names, ())
    types = as_frame(pa.schema([fields.field(name) for name in names]).empty_table()).schema
    frame = pl.DataFrame({"uid": [str(row) for row in rows], "row": np.array(rows, np.int64)})
    pieces = list(SourceColumns(shard, types, batch_bytes).beside(frame))
    assert len(pieces) > 1 or len(rows) < 2
    return pl.concat(pieces)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_columns_are_read_in_batches_beside_the_rows(tmp_path, form):
    rows = [0, 1, 6, 7, 699, 700, 1_399, 1_400, *range(1_500, ROWS, 3)]
    found = beside(shard_of(tmp_path, form), rows, ["year", "nsfw"])
    assert found["uid"].to_list() == [str(row) for row in rows]
    wanted = [values(row) for row in rows]
    years = [one["year"] for one in wanted]
    assert found["nsfw"].to_list() == [one["nsfw"] for one in wanted]
    assert found["year"].cast(pl.Int64).to_list() == years
    kept = failed_condition(found, ["nsfw in ('UNLIKELY', 'POSSIBLE') and try_cast(year as int) < 2015"], {})
    assert kept.is_null().to_list() == [one["nsfw"] == "UNLIKELY" and one["year"] < 2015 for one in wanted]


def test_members_of_tars_are_columns(tmp_path):
    found = beside(shard_of(tmp_path, "webdataset"), [3, 4, 2_000], ["cls"], batch_bytes=1)
    assert found["cls"].to_list() == ["3", "4", "2000"]


def test_numbers_that_are_not_finite_do_not_pass(tmp_path):
    pq.write_table(pa.table({"p": [0.1, float("nan"), float("inf"), None, 0.9]}), tmp_path / "a.parquet")
    (shard,) = format_of("parquet").find(str(tmp_path / "a.parquet"))
    found = beside(shard, range(5), ["p"], batch_bytes=1)
    assert failed_condition(found, ["p > 0.5"], {}).is_null().to_list() == [False] * 4 + [True]
    assert values_of(shard, 4, ["p", "q"]) == {"p": 0.9}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    n = 90
    extra = {
        "punsafe": np.linspace(0, 1, n).tolist(),
        "lang": [("en", "fr", None)[row % 3] for row in range(n)],
    }
    glob = write_shards(folder, planted(n), extra=extra)
    first = folder / "train-00000-of-00003.parquet"  # one shard lacks a column
    pq.write_table(pq.read_table(first).drop_columns("lang"), first)
    return glob, extra


def test_a_run_filters_by_columns_of_its_source(source, tmp_path, caplog):
    glob, extra = source
    conditions = ["punsafe < 0.75", "lang = 'fr' or lang is null"]
    recipe = recipe_values(glob, tmp_path / "run", filter=conditions, dedup={"exact": False})
    recipe["select"] = {"keep": 1.0, "at_most": True}
    runner.run(parse_recipe(recipe), until="select")
    run = open_run(tmp_path / "run")
    lang = [None] * 30 + extra["lang"][30:]
    passed = [p < 0.75 and one in ("fr", None) for p, one in zip(extra["punsafe"], lang, strict=True)]
    decisions = run.decisions().sort("uid")
    assert (~decisions["reason"].str.starts_with("filter:")).to_list() == passed
    assert "1 of 3 shards have no column 'lang', which is null there" in caplog.text
    told = explain(tmp_path / "run", "s000089")["filter"]
    assert told["condition"] == "punsafe < 0.75" and told["values"] == {"punsafe": 1.0}


def test_columns_that_nothing_has_are_named_with_those_there_are(source, tmp_path):
    def check(condition):
        check_recipe(parse_recipe(recipe_values(source[0], tmp_path / "run", filter=[condition])))

    check("punsafe < 0.5 and lang is null and distance < 1")
    with pytest.raises(
        UsageError, match=r"no column 'unsafe'; .*there are uid, .*; and in the source .*punsafe"
    ):
        check("unsafe < 0.5")
    with pytest.raises(UsageError, match="no column 'PUNSAFE'; did you mean 'punsafe'"):
        check("PUNSAFE < 0.5")
    with pytest.raises(UsageError, match=r"no column 'fr' \(a text stands in single quotes: 'fr'\)"):
        check('lang = "fr"')
    with pytest.raises(RecipeError, match=r"cannot compare string with numeric type.*TRY_CAST"):
        check("lang = 3")
    with pytest.raises(UsageError, match="no column 'embedding'"):
        check("embedding is null")


def test_a_condition_is_tried_on_the_types_of_every_shard(tmp_path):
    for name, years in (("a", [1, 2]), ("b", ["1", "x"])):
        pq.write_table(pa.table({"year": years, "caption": ["a", "b"]}), tmp_path / f"{name}.parquet")
    values = recipe_values(str(tmp_path), tmp_path / "run", filter=["year = 1"])
    schemas = SourceSchemas(parse_recipe(values | {"write": {"schemas": "apart"}}))
    for shard in format_of("parquet").find(str(tmp_path / "*.parquet")):
        schemas.add(shard, pq.read_schema(shard.url), 2)
    with pytest.raises(RecipeError, match=r"b\.parquet.*cannot compare string with numeric"):
        schemas.check()


def test_a_value_that_cannot_be_cast_is_one_line():
    condition = "cast(label as int) > 0"
    with pytest.raises(CurateError, match=r"filter 'cast.*column 'label'.*\[\"n/a\"\].*TRY_CAST") as error:
        failed_condition(FRAME, ["uid = 'b'", condition], {})
    assert "\n" not in str(error.value)
    assert failed_condition(FRAME, ["try_cast(label as int) > 0"], {}).is_null().to_list() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "condition",
    [" and ".join(["1 = 1"] * 5_000), "+".join("1" * 5_000) + " > 0", "label = 'a' or " * 300 + "1 = 1"],
)
def test_chains_that_are_too_long_are_refused(condition):
    with pytest.raises(
        RecipeError, match=r"operators, at most 250 can be in one condition; write several"
    ) as error:
        check_conditions(FRAME.clear(), [condition])
    assert len(str(error.value)) < 600


def test_long_lists_and_long_chains_up_to_the_limit_are_fine():
    names = ", ".join(f"'{n} and more + that'" for n in range(5_000))
    check_conditions(FRAME.clear(), [f"label in ({names})", " and ".join(["label > '1'"] * MOST_OPERATORS)])


def test_a_field_of_json_is_named_as_what_is_not_read():
    frame = pl.DataFrame({"json": pl.Series([], dtype=pl.String)})
    with pytest.raises(
        RecipeError, match=r"year is no field here: json\.year names one of a struct, and those of JSON"
    ):
        check_conditions(frame, ["json.year > 1"])
