"""Conditions on columns of the source, read from the shards in any format that has columns."""

import csv
import json
import math
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.errors import CurateError, RecipeError, UsageError
from curate.filtering.expressions import expression
from curate.filtering.json_fields import PEEKED_ROWS
from curate.filtering.source_columns import (
    SourceColumns,
    as_frame,
    find_columns,
    numbers_of,
    read_by,
    values_of,
)
from curate.filtering.sql import MOST_OPERATORS, check_conditions, failed_condition
from curate.pipeline import runner
from curate.pipeline.source_schemas import SourceSchemas
from curate.pipeline.stages.filter import check_recipe
from curate.recipe.loading import parse_recipe
from curate.sources.parquet import partitions
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
    for condition in ("lang = 3", "lang < 0.5", "label > 0.5", "lang in (1, 2)"):  # not letter by letter
        with pytest.raises(
            RecipeError, match=r"cannot (compare string with numeric type|check for).*TRY_CAST"
        ):
            check(condition)
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


@pytest.mark.parametrize(
    ("condition", "way"),
    [
        ("seen > '2024-01-31'", "a date is written DATE '2024-01-31'"),
        ("zoned > timestamp '2024-01-31'", "CAST(column AS DATE) > DATE '2024-01-31'"),
        ("cast(text as date) > DATE '2024-01-31'", "DATE(column) makes a date of text"),
    ],
)
def test_dates_that_cannot_be_compared_are_told_how(condition, way):
    """What is told holds: of the two days only the second is later."""
    seen = pl.Series([datetime(2024, 1, 1), datetime(2024, 3, 1)])
    frame = pl.DataFrame(
        {"seen": seen, "zoned": seen.dt.replace_time_zone("UTC"), "text": ["2024-01-01", "2024-03-01"]}
    )
    with pytest.raises(CurateError) as error:
        check_conditions(frame, [condition])
        failed_condition(frame, [condition], {})
    assert way in str(error.value) and "python" not in str(error.value) and "Polars" not in str(error.value)
    right = {"a": "seen > DATE '2024-01-31'", "C": "CAST(zoned AS DATE) > DATE '2024-01-31'",
             "D": "DATE(text) > DATE '2024-01-31'"}[way[0]]  # fmt: skip
    check_conditions(frame, [right])
    assert failed_condition(frame, [right], {}).is_null().to_list() == [False, True]


def test_long_lists_and_long_chains_up_to_the_limit_are_fine():
    names = ", ".join(f"'{n} and more + that'" for n in range(5_000))
    conditions = [f"label not in ({names})", " and ".join(["label > '1'"] * MOST_OPERATORS)]
    check_conditions(FRAME.clear(), conditions)
    assert failed_condition(FRAME, conditions, {}).is_null().to_list() == [False, True, True]


def told(row):
    """What the JSON member of row `row` of the tars here holds, None for none."""
    if row % 11 == 5:
        return None
    found = {"punsafe": row / 100 if row % 2 else row // 100, "NSFW": ("UNLIKELY", None)[row % 3 == 0],
             "nested": {"year": 2000 + row % 5}, "ok": row % 2 == 0, "width": row, "tags": [1, 2], "mixed": (1, "b")[row % 2],
             "a b": row, "hash": 2**60 + row, "late": None if row < 1500 else 0.5}  # fmt: skip
    return {name: value for name, value in found.items() if row % 7 or name != "punsafe"}


def tars(folder, rows=60, **extra):
    """Return a shard whose samples have an image, and most a JSON member."""
    members = []
    for row in range(rows):
        members.append(member(f"{row:04}.jpg", b"%d" % row))
        if told(row) is not None:
            members.append(member(f"{row:04}.json", json.dumps(told(row) | extra).encode()))
    return save(folder, tar(*members), "a.tar")


def oracle(condition, rows):
    """Return the rows of the tars for which a Python condition on what `told` holds is true."""
    return [row for row in range(rows) if told(row) is not None and condition(told(row))]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("punsafe < 0.3", lambda t: "punsafe" in t and t["punsafe"] < 0.3),
        ("json.punsafe >= 0.3", lambda t: "punsafe" in t and t["punsafe"] >= 0.3),
        ("NSFW = 'UNLIKELY'", lambda t: t["NSFW"] == "UNLIKELY"),
        ("json.nested.year = 2003", lambda t: t["nested"]["year"] == 2003),
        ("ok", lambda t: t["ok"]),
        ("source.width >= 50", lambda t: t["width"] >= 50),
        ('json."a b" = 7', lambda t: t["a b"] == 7),
        (f"hash = {2**60 + 13}", lambda t: t["hash"] == 2**60 + 13),
        ("mixed = 'b'", lambda t: t["mixed"] == "b"),
        ("late is null and punsafe is not null", lambda t: "punsafe" in t),
    ],
)
def test_fields_of_json_members_are_columns(tmp_path, condition, holds):
    shard = tars(tmp_path)
    names = read_by([condition], ["width"])
    found = beside(shard, range(60), names, batch_bytes=200)
    passed = failed_condition(found, [condition], {}).is_null()
    assert [row for row in range(60) if passed[row]] == oracle(holds, 60) != []


@pytest.mark.parametrize("form", ["parquet", "jsonl", "text"])
@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("source.meta.w < 5", lambda m: m["w"] is not None and m["w"] < 5),
        ("source.meta.who = 'b'", lambda m: m["who"] == "b"),
        ("source.meta.inner.x >= 0.5", lambda m: m["inner"]["x"] >= 0.5),
        ("source.meta.w is null", lambda m: m["w"] is None),
    ],
)
def test_fields_of_structs_and_of_texts_that_are_json(tmp_path, form, condition, holds):
    metas = [
        {"w": None if row % 9 == 4 else row, "who": "ab"[row % 2], "inner": {"x": row / 20}}
        for row in range(20)
    ]
    if form == "jsonl":
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps({"caption": "c", "meta": one}) + "\n" for one in metas)
        )
    else:
        column = metas if form == "parquet" else [json.dumps(one) for one in metas]
        pq.write_table(pa.table({"caption": ["c"] * 20, "meta": column}), tmp_path / "a.parquet")
    kind = "jsonl" if form == "jsonl" else "parquet"
    [shard] = format_of(kind).find(str(tmp_path / f"a.{kind}"))
    found = beside(shard, range(20), read_by([condition], ["width"]), batch_bytes=200)
    passed = failed_condition(found, [condition], {}).is_null()
    assert [row for row in range(20) if passed[row]] == [row for row in range(20) if holds(metas[row])] != []


def test_a_field_that_no_row_has_is_no_column_and_one_without_source_is_told(tmp_path):
    metas = {"about": [{"w": 1}], "text": ['{"w": 1}']}
    pq.write_table(pa.table({"caption": ["c"], **metas}), tmp_path / "a.parquet")

    def check(condition):
        check_recipe(
            parse_recipe(recipe_values(str(tmp_path / "a.parquet"), tmp_path / "run", filter=[condition]))
        )

    check("source.about.w = 1 and source.text.w = 1")
    for column in metas:
        with pytest.raises(UsageError, match=rf"no column 'source\.{column}\.v'"):
            check(f"source.{column}.v = 1")
        with pytest.raises((UsageError, RecipeError), match=rf"goes by source\.{column}\.w"):
            check(f"{column}.w = 1")


def test_values_that_are_not_of_the_type_of_their_field_are_null_and_text_that_is_a_number_is_one(tmp_path):
    first = [{"a": 1, "b": "x", "c": True}] * PEEKED_ROWS
    odd = [
        {"a": "0.5", "b": 3, "c": 1}, {"a": "high", "b": ["x"], "c": None}, {"a": True, "b": "\ud800"}, {"a": math.nan}, [1],
    ]  # fmt: skip
    members = [member(f"{row}.json", json.dumps(one).encode()) for row, one in enumerate(first + odd)]
    members += [member("9998.json", b"{"), member("9999.json", b"\xff")]
    shard = save(tmp_path, tar(*members), "a.tar")
    found = beside(shard, range(PEEKED_ROWS, PEEKED_ROWS + 7), ["a", "b", "c"], batch_bytes=20)
    assert found["a"].to_list() == [0.5, None, None, None, None, None, None]
    assert found["b"].to_list() == ["3", None, "?", None, None, None, None]
    assert found["c"].to_list() == [None] * 7


def test_a_field_that_is_null_at_first_has_the_type_of_its_first_value(tmp_path):
    for name, values in (("a", [None, None]), ("b", [0.5, None])):
        members = [
            member(f"{row}.json", json.dumps({"p": value}).encode()) for row, value in enumerate(values)
        ]
        save(tmp_path, tar(*members), f"{name}.tar")
    shards = format_of("webdataset").find(str(tmp_path / "*.tar"))
    assert find_columns(shards, ["p"], ()).field("p").type == pa.float64()
    assert find_columns(shards[:1], ["p"], ()).field("p").type == pa.null()


def test_fields_that_are_not_there_are_named_with_those_that_are(tmp_path):
    tars(tmp_path)

    def check(condition):
        values = recipe_values(str(tmp_path / "a.tar"), tmp_path / "run", filter=[condition])
        check_recipe(parse_recipe(values))

    check("punsafe < 0.1 and json.nested.year = 2000 and source.width > 3")
    with pytest.raises(
        UsageError,
        match=r"no column 'unsafe'.*and in the source NSFW, json\.nested\.year, ok, source\.width",
    ):
        check("unsafe < 0.1")
    with pytest.raises(UsageError, match=r"no column 'json\.punsaf'; did you mean 'punsafe'"):
        check("json.punsaf < 0.1")
    with pytest.raises(UsageError, match=r"no column 'source\.widht'; did you mean 'source\.width'"):
        check("source.widht < 10")
    with pytest.raises(RecipeError, match=r"cannot compare string with numeric"):
        check("NSFW < 0.1")
    with pytest.raises(UsageError, match=r"no column 'nested'; did you mean json\.nested\.year\?"):
        check("nested.year = 3")


def test_a_column_that_the_run_has_too_goes_by_source(tmp_path):
    table = pa.table({"width": [10, 20, None], "source.x": [1, 2, 3], "caption": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (shard,) = format_of("parquet").find(str(tmp_path / "a.parquet"))
    assert read_by(["width > 3 and source.width = 10 or source.x = 1"], ["width"]) == (
        "source.width",
        "source.x",
    )
    frame = pl.DataFrame({"row": [0, 2], "width": [1, 1]})
    kinds = {"source.width": pl.Int64(), "source.x": pl.Int64(), "source.no": pl.Int64()}
    (found,) = SourceColumns(shard, kinds, 1 << 20).beside(frame)
    assert found.rows() == [(0, 1, 10, 1, None), (2, 1, None, 3, None)]
    assert failed_condition(found, ["width < source.width"], {}).is_null().to_list() == [True, False]
    assert values_of(shard, 1, ["source.width", "caption"]) == {"source.width": 20, "caption": "b"}
    have = find_columns([shard], ["source.width"], ["width", "caption"])
    assert have.names == ["source.width", "source.x", "source.caption"]


def test_names_in_quotes_and_texts_stay_as_they_are():
    frame = pl.DataFrame({"a": ["source.width", "json.x"], "source.width": [1, 2]})
    for condition in (
        "a = 'source.width'",
        "a = 'source.width' and \"source.width\" = 1",
        "source.width = 1",
    ):
        assert frame.filter(expression(condition)).rows() == [("source.width", 1)], condition


NUMBERS = ["5", " 10 ", "1e-05", "0.9", "", "n/a", "nan", "2024", None]
#: Conditions on text that stands for numbers, and what they mean.
COMPARED = [
    ("x < 0.95", lambda x: x < 0.95),
    ("x > 9", lambda x: x > 9),
    ("x = 2024", lambda x: x == 2024),
    ("x >= 5 and x <> 10", lambda x: x >= 5 and x != 10),
    ("x between 0.5 and 7", lambda x: 0.5 <= x <= 7),
    ("x in (5, 10)", lambda x: x in (5, 10)),
    ("x + 1 > 6", lambda x: x + 1 > 6),
]


def number(text):
    """Return the number that a text stands for, None for none."""
    try:
        return None if text is None or math.isnan(float(text)) else float(text)
    except ValueError:
        return None


@pytest.mark.parametrize(("condition", "holds"), COMPARED)
@pytest.mark.parametrize("form", ["csv", "folder", "hive"])
def test_text_of_formats_without_types_is_compared_with_numbers_as_numbers(tmp_path, form, condition, holds):
    values = NUMBERS
    if form == "csv":
        lines = [f"{n}.png,{value or ''}\n" for n, value in enumerate(values)]
        (tmp_path / "a.csv").write_text("image,x\n" + "".join(lines))
        shards = format_of("csv").find(str(tmp_path / "a.csv"))
    elif form == "folder":
        for n in range(len(values)):
            (tmp_path / f"{n}.png").write_bytes(b"x")
        lines = [f"{n}.png,{value or ''}\n" for n, value in enumerate(values)]
        (tmp_path / "metadata.csv").write_text("file_name,x\n" + "".join(lines))
        shards = format_of("folder").find(str(tmp_path))
    else:
        values = [one for one in NUMBERS if one and one.strip() and "/" not in one] + [None]
        for value in values:
            folder = tmp_path / f"x={value or '__HIVE_DEFAULT_PARTITION__'}"
            folder.mkdir()
            pq.write_table(pa.table({"caption": ["c"]}), folder / "0.parquet")
        shards = format_of("parquet").find(str(tmp_path))
        values = [partitions(shard)["x"] for shard in shards]
    names = numbers_of([condition])
    types = as_frame(find_columns(shards, ["x"], (), names).empty_table()).schema
    kinds = {"x": types["x"]}
    assert names == {"x"} and kinds == {"x": pl.Float64}
    passed = []
    for shard in shards:
        rows = range(len(values)) if len(shards) == 1 else [0]
        frame = pl.DataFrame({"uid": [str(row) for row in rows], "row": list(rows)})
        for block in SourceColumns(shard, kinds, 1 << 20).beside(frame):
            passed += failed_condition(block, [condition], {}).is_null().to_list()
    wanted = [number(value) is not None and holds(number(value)) for value in values]
    assert passed == wanted and any(wanted) and not all(wanted)
    assert find_columns(shards, ["x"], ()).field("x").type == pa.string()  # with texts it is compared as text


def test_partitions_are_compared_as_they_are_written_and_stay_in_the_output(tmp_path):
    n, vectors = 0, planted(48)
    for year in (2022, 2023, 2024):
        for lang in ("en", "fr"):
            folder = tmp_path / f"in/year={year}/lang={lang}"
            folder.mkdir(parents=True)
            table = {"embedding": vectors[n : n + 8].tolist(), "id": [f"{year}{lang}{k}" for k in range(8)]}
            pq.write_table(pa.table(table), folder / "part-0.parquet")
            n += 8
    glob = str(tmp_path / "in")
    for conditions, wanted in (
        (["year >= 2023", "lang = 'en'"], {("2023", "en"), ("2024", "en")}),
        (["year = 2024"], {("2024", "en"), ("2024", "fr")}),
        (["year = '2024' or lang <> 'en' and source.year in ('2022')"], {("2024", "en"), ("2024", "fr"), ("2022", "fr")}),
    ):  # fmt: skip
        recipe = recipe_values(glob, tmp_path / "run", filter=conditions, dedup={"exact": False})
        runner.run(parse_recipe(recipe | {"select": {"keep": 1.0, "at_most": True}}))
        written = pl.read_parquet(str(tmp_path / "run/6_filtered/*.parquet"))
        assert set(written.select("year", "lang").rows()) == wanted
        assert len(written) == 8 * len(wanted)
    with pytest.raises(RecipeError, match=r"cannot compare string with numeric type"):
        recipe = recipe_values(glob, tmp_path / "run", filter=["year = 2024 and year = '2024'"])
        check_recipe(parse_recipe(recipe))
