"""`curate diff` against a comparison by plain dictionaries, on made-up runs and on real ones."""

import json
import math
import shutil
from collections import Counter

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import open_run
from curate.analysis import diff, joins
from curate.analysis.diff import CHANGED, Differences, diff_runs
from curate.errors import RunError, UsageError
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and one on a source that lost a shard and won another, with the same concepts; and one fitted anew."""
    folder = tmp_path_factory.mktemp("diff")
    vectors = planted(240, near=20)
    ids = {"label": [str(i % 3) for i in range(240)]}
    write_shards(folder / "all", vectors, shards=4, extra=ids)
    shards = sorted((folder / "all").iterdir())
    made = []
    for name, there, changes in (
        ("a", shards[:3], {}),
        ("b", shards[1:], {"select": {"keep": 0.4}, "dedup": {"epsilon": 0.02}, "weight": "concept"}),
        ("c", shards[:3], {"cluster": {"concepts": 5}, "score": []}),
    ):
        source = folder / f"in-{name}"
        source.mkdir()
        for path in there:
            (source / path.name).symlink_to(path)
        values = recipe_values(f"{source}/*.parquet", folder / name, **changes)
        recipe = parse_recipe(values)
        if name == "b":  # the concepts of a stay, as where a source grows
            runner.run(recipe, until="embed")
            shutil.copytree(made[0] / "2_concepts", folder / name / "2_concepts")
        runner.run(recipe, until="select")
        made.append(folder / name)
    return made


def settings_of(run):
    return read_yaml((run / "recipe.yaml").read_text())


def by_hand(a, b):
    """Return what is different, found with dictionaries of all rows."""
    rows = []
    for path in (a, b):
        scores = {row["uid"]: row for row in open_run(path).scores().to_dicts()}
        rows.append(
            {
                (row["uid"], row["occurrence"]): row | {"scores": scores.get(row["uid"], {})}
                for row in open_run(path).decisions().to_dicts()
            }
        )
    before, after = rows
    both = before.keys() & after.keys()
    became = Counter()
    for key in before.keys() | after.keys():
        if key not in both:
            one = (before if key in before else after)[key]
            became["gone" if key in before else "new", "kept" if one["keep"] else "dropped"] += 1
        else:
            became[tuple("kept" if one[key]["keep"] else "dropped" for one in (before, after))] += 1
    reasons = Counter(
        (before[key]["reason"], after[key]["reason"])
        for key in both
        if before[key]["reason"] != after[key]["reason"]
    )
    return before, after, both, became, reasons


def test_two_runs_against_dictionaries(runs):
    a, b, _ = runs
    found = diff_runs(a, b)
    before, after, both, became, reasons = by_hand(a, b)
    assert found["rows"] == {"a": 180, "b": 180, "both": 120, "new": 60, "gone": 60}
    assert found["kept"] == {
        "a": sum(r["keep"] for r in before.values()),
        "b": sum(r["keep"] for r in after.values()),
    }
    names = {
        ("kept", "kept"): "still_kept", ("dropped", "dropped"): "still_dropped",
        ("kept", "dropped"): "kept_to_dropped", ("dropped", "kept"): "dropped_to_kept",
    }  # fmt: skip
    expected = {names.get(pair, "_".join(pair)): count for pair, count in became.items()}
    assert {name: count for name, count in found["changes"].items() if count} == expected
    assert found["changes"]["dropped_to_kept"] > 0
    assert {(row["before"], row["after"]): row["rows"] for row in found["reasons"]} == reasons
    assert [row["rows"] for row in found["reasons"]] == sorted(reasons.values(), reverse=True)
    stayed = [key for key in both if before[key]["keep"] and after[key]["keep"]]
    off = [abs(after[key]["weight"] - before[key]["weight"]) for key in stayed]
    assert found["weights"]["rows"] == len(stayed)
    assert found["weights"]["changed"] == sum(one > 0 for one in off) > 0
    assert found["weights"]["mean_difference"] == pytest.approx(math.fsum(off) / len(off))
    assert found["weights"]["largest_difference"] == pytest.approx(max(off))


def test_concepts_that_are_the_same(runs):
    a, b, _ = runs
    concepts = diff_runs(a, b)["concepts"]
    before, after, both, _, _ = by_hand(a, b)
    assert concepts["comparable"]
    assert concepts["changed"] == sum(before[key]["concept"] != after[key]["concept"] for key in both) == 0
    sizes = [Counter(row["concept"] for row in rows.values()) for rows in (before, after)]
    for row in concepts["sizes"]:
        assert (row["rows_before"], row["rows_after"]) == tuple(one[row["concept"]] for one in sizes)
    moves = [abs(row["rows_after"] - row["rows_before"]) for row in concepts["sizes"]]
    assert moves == sorted(moves, reverse=True)
    assert len(moves) == sum(sizes[0][c] != sizes[1][c] for c in range(8))


def test_concepts_fitted_anew_are_not_compared(runs):
    a, _, c = runs
    found = diff_runs(a, c)
    assert found["concepts"] == {
        "comparable": False,
        "why_not": "their centroids differ (8 and 5 concepts): the concepts were fitted anew",
    }
    assert {"setting": "cluster.concepts", "a": 8, "b": 5} in found["settings"]
    assert {"setting": "score.clip_score", "a": True, "b": None} in found["settings"]
    assert found["scores_of_one"] == {"a": ["clip_score"], "b": []}


def test_settings_that_differ(runs):
    settings = {row["setting"]: (row["a"], row["b"]) for row in diff_runs(*runs[:2])["settings"]}
    assert settings["select.keep"] == (0.3, 0.4)
    assert settings["dedup.epsilon"] == (0.001, 0.02)
    assert settings["source.path"][1].endswith("in-b/*.parquet")
    assert {name.partition(".")[0] for name in settings} == {"select", "dedup", "source", "weight"}


def test_a_run_and_itself(runs):
    found = diff_runs(runs[0], runs[0])
    assert found["changes"] | {"still_kept": 0, "still_dropped": 0} == dict.fromkeys(found["changes"], 0)
    assert found["reasons"] == found["settings"] == found["concepts"]["sizes"] == []
    assert found["weights"]["changed"] == 0


def test_the_rows_that_differ(runs, tmp_path):
    a, b, _ = runs
    diff_runs(a, b, out=tmp_path / "rows.parquet")
    before, after, both, _, _ = by_hand(a, b)
    table = storage.read_table(tmp_path / "rows.parquet")
    assert table.schema.equals(CHANGED)
    keys = list(zip(table["uid"].to_pylist(), table["occurrence"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    rows = {(row["uid"], row["occurrence"]): row for row in table.to_pylist()}
    compared = ("keep", "reason", "concept", "weight")
    for key in before.keys() | after.keys():
        same = key in both and all(before[key][name] == after[key][name] for name in compared)
        assert (key in rows) != same
        if not same:
            for name in compared:
                assert rows[key][f"{name}_before"] == before.get(key, {}).get(name)
                assert rows[key][f"{name}_after"] == after.get(key, {}).get(name)
            change = rows[key]["change"]
            assert (change == "new") == (key not in before)
            assert (change == "gone") == (key not in after)
            assert (change in ("kept_to_dropped", "dropped_to_kept")) == (
                key in both and before[key]["keep"] != after[key]["keep"]
            )


def test_many_batches_say_the_same(runs, tmp_path, monkeypatch):
    one = diff_runs(*runs[:2], out=tmp_path / "one.parquet")
    monkeypatch.setattr(joins, "BATCH", 7)
    many = diff_runs(*runs[:2], out=tmp_path / "many.parquet")
    assert many["weights"].pop("mean_difference") == pytest.approx(one["weights"].pop("mean_difference"))
    assert many == one
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


# --- made-up rows -----------------------------------------------------------------------------------------

ROW = st.fixed_dictionaries(
    {
        "keep": st.booleans(),
        "reason": st.sampled_from(["kept", "over_budget", "near_duplicate"]),
        "concept": st.sampled_from([None, 0, 1, 2]),
        "weight": st.sampled_from([None, 0.0, 0.5, 1.0]),
        "score": st.sampled_from([None, float("nan"), 0.0, 0.25, 1.0]),
    }
)
SIDE = st.dictionaries(st.tuples(st.sampled_from("abcdé"), st.integers(0, 1)), ROW, max_size=10)
KIND = {
    "uid": pl.String, "occurrence": pl.Int32, "keep": pl.Boolean, "reason": pl.String, "concept": pl.Int32,
    "weight": pl.Float32, "score": pl.Float64,
}  # fmt: skip


KEYS = ("uid", "occurrence")


def joined(before, after):
    """Return two runs joined; each is {(uid, occurrence): row}, or a list of rows."""
    kind = diff._kind(["score"])
    with joins.opened(2 * 10**8, a=kind, b=kind) as database:
        for name, side in (("a", before), ("b", after)):
            rows = (
                side
                if isinstance(side, list)
                else [dict(zip(KEYS, key, strict=True), **row) for key, row in side.items()]
            )
            frame = pl.DataFrame(rows, schema=KIND)
            database.add(name, frame.select(kind.names).to_arrow())
        return pl.concat(diff._joined(database, kind.names, ["run-a", "run-b"]))


def is_number(value):
    return value is not None and not math.isnan(value)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(SIDE, SIDE, st.booleans())
def test_counting_against_the_definition(before, after, comparable):
    tally = Differences(["score"], comparable=comparable)
    table = tally.add(joined(before, after))
    found = tally.result(10)
    both = before.keys() & after.keys()
    assert found["rows"]["both"] == len(both)
    assert found["rows"]["new"] == len(after.keys() - both)
    assert found["rows"]["gone"] == len(before.keys() - both)
    for change, was, now in (
        ("kept_to_dropped", True, False),
        ("dropped_to_kept", False, True),
        ("still_kept", True, True),
    ):
        assert found["changes"][change] == sum(
            (before[k]["keep"], after[k]["keep"]) == (was, now) for k in both
        )
    pairs = [(before[k]["score"], after[k]["score"]) for k in both]
    known = [pair for pair in pairs if all(map(is_number, pair))]
    numbers = found["scores"][0]
    assert numbers["rows"] == len(known)
    assert numbers["changed"] == sum(x != y for x, y in known)
    assert numbers["mean_difference"] == (sum(abs(y - x) for x, y in known) / len(known) if known else None)
    here = [[is_number(x) for x in pair] for pair in pairs]
    assert (numbers["gained"], numbers["lost"]) == (here.count([False, True]), here.count([True, False]))
    if comparable:
        assert found["concepts"]["changed"] == sum(before[k]["concept"] != after[k]["concept"] for k in both)
        for row in found["concepts"]["sizes"]:
            assert row["rows_before"] == sum(one["concept"] == row["concept"] for one in before.values())
            assert row["kept_after"] == sum(
                one["concept"] == row["concept"] and one["keep"] for one in after.values()
            )
    compared = ["keep", "reason", "weight"] + ["concept"] * comparable
    differ = {k for k in both if any(before[k][name] != after[k][name] for name in compared)}
    changed = {(row["uid"], row["occurrence"]) for row in table.to_pylist()}
    assert changed == differ | (before.keys() ^ after.keys())


def test_a_row_that_is_there_twice():
    row = {name: None for name in KIND} | {"uid": "x", "occurrence": 0}
    twice = [row | {"uid": "y"}, row | {"uid": "y", "occurrence": 1}, row, row]
    for sides, run in (((twice, twice), "run-a"), ((twice[:3], twice), "run-b")):
        wrong = f"^{run}: a uid and occurrence must be there once, 'x' is there again; curate verify {run}"
        with pytest.raises(RunError, match=wrong):
            joined(*sides)


def test_settings_as_dotted_names():
    a = {
        "run": "x",
        "score": ["pair", {"heads": {"seeds": 3}}],
        "source": [{"path": "p"}],
        "filter": ["a"],
        "z": {},
    }
    b = {"run": "y", "score": ["pair", "noise"], "source": [{"path": "q"}], "filter": ["a", "b"], "z": None}
    assert diff._settings(a, b) == [
        {"setting": "score.heads.seeds", "a": 3, "b": None},
        {"setting": "source.path", "a": "p", "b": "q"},
        {"setting": "filter", "a": ["a"], "b": ["a", "b"]},
        {"setting": "z", "a": {}, "b": None},
        {"setting": "score.noise", "a": None, "b": True},
    ]


# --- the command line -------------------------------------------------------------------------------------


def test_the_command(runs, tmp_path):
    a, b, c = runs
    said = curate("diff", a, b, "--out", tmp_path / "x.parquet")
    assert (said.code, said.err) == (0, f"wrote {tmp_path}/x.parquet\n")
    for text in (
        "reasons that changed",
        "0 rows changed their concept",
        "settings that differ",
        "select.keep",
    ):
        assert text in said.out
    assert "concepts cannot be compared: their centroids differ" in curate("diff", a, c).out
    said = curate("diff", a, b, "--json")
    assert json.loads(said.out) == json.loads(json.dumps(diff_runs(a, b)))


def test_what_cannot_be_compared(runs, tmp_path):
    a = runs[0]
    assert curate("diff", a).code == 2
    assert curate("diff", a, tmp_path).error.endswith("is not a run folder: it has no recipe.yaml")
    with pytest.raises(UsageError, match=r"must name a file that ends in .parquet"):
        diff_runs(a, a, out=tmp_path / "x.csv")
    runner.run(parse_recipe(settings_of(a) | {"run": str(tmp_path / "new")}), until="read")
    assert "5_decisions is not there yet" in curate("diff", a, tmp_path / "new").error


def test_a_run_without_rows(tmp_path):
    empty = write_shards(tmp_path / "in", planted(2)[:0], shards=1)
    runner.run(parse_recipe(recipe_values(empty, tmp_path / "run")), until="select")
    found = diff_runs(tmp_path / "run", tmp_path / "run")
    assert found["rows"] == {"a": 0, "b": 0, "both": 0, "new": 0, "gone": 0}
    assert curate("diff", tmp_path / "run", tmp_path / "run").code == 0
    assert pa.schema(CHANGED).names[:3] == ["uid", "occurrence", "change"]
