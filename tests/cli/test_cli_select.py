"""The command `select` on a finished run; and it and `score` on one that is unfinished, busy or outdated."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.errors import RecipeError, RunError, UsageError
from curate.io import storage
from curate.pipeline import rescore, runner
from curate.recipe.loading import load_recipe, override, parse_recipe
from curate.runs.folder import RunFolder
from curate.selection.registry import selectors
from tests.fixtures.builders import planted, write_shards
from tests.fixtures.calls import curate, own
from tests.fixtures.folders import changed, leftovers, tables, times
from tests.fixtures.rescored import N, kept, whole, written

#: Every test works in a folder with a copy of a finished run.
pytestmark = pytest.mark.usefixtures("copied_run")

DENSITY = ["--method", "density"]


def test_select_decides_anew_and_touches_nothing_else(copied_run):
    before, manifest = tables(copied_run), Path("run/manifest.json").read_bytes()
    said = curate("select", "run", "--keep", "0.5")
    assert said.code == 0
    assert len(kept()) == 75
    assert {name.split("/")[0] for name in changed(before, tables(copied_run))} == {"5_decisions"}
    assert Path("run/manifest.json").read_bytes() == manifest
    assert said.out.splitlines()[1].split() == ["rows", "in", "150", "1.0000"]
    assert said.out.splitlines()[2].split() == ["kept", "75", "0.5000"]
    assert said.err.splitlines()[-1] == (
        "run/6_filtered is still that of the earlier decision; write it anew with --write"
    )
    recipe = load_recipe("run/recipe.yaml")
    assert (recipe.select.keep, recipe.run) == (0.5, "run"), "the run is where it was found"
    assert leftovers(copied_run) == []
    assert not Path("run/.work/undo").exists()


def test_a_score_decides_as_its_numbers_say(copied_run):
    assert curate("select", "run", "--method", "hardest", "--by", "distance", "--count", "20", "-q").code == 0
    scores = open_run("run").scores()
    assert kept() == set(scores.top_k(20, by="distance")["uid"])
    assert curate("select", "run", "--method", "easiest", "--of", "input", "--keep", "10%").code == 0
    assert kept() == set(scores.bottom_k(15, by="distance")["uid"]), "by stays, count gives way to keep"


def test_select_with_write_is_what_a_fresh_run_gives(finished_run, copied_run):
    said = curate(
        "select", "run", "--method", "random", "--keep", "0.4", "--where", "distance < 0.5", "--write"
    )
    assert said.code == 0
    assert said.err.splitlines()[-2:] == ["shards: run/6_filtered", "open: run/7_report/report.html"]
    assert written() == kept()
    fresh = own(
        f"{finished_run}/in/*.parquet", "fresh", "--set", "source.uid=id", "--set", "cluster.concepts=8", "--method",
        "random", "--where", "distance < 0.5", keep="0.4",
    )  # fmt: skip
    assert fresh.code == 0
    assert len(open_run("fresh").decisions().filter(pl.col("reason") == "filter:distance < 0.5")) > 0
    digests = {curate("verify", name, "--digest").out for name in ("run", "fresh")}
    assert len(digests) == 1
    assert changed(tables("run"), tables("fresh")) == []


def test_nothing_to_do_says_so(copied_run):
    before = times(copied_run)
    said = curate("select", "run")
    assert said.code == 0
    assert "run: nothing to do, everything is up to date" in said.err
    assert "--write" not in said.err
    after = times(copied_run)
    assert [name for name in changed(before, after) if name[0] in "0123456"] == []


@pytest.mark.long
def test_verify_and_inspect_tell_of_shards_of_an_earlier_decision(finished_run, copied_run):
    warning = "warning: select changed after the shards and the report were written; "
    assert warning not in curate("verify", "run").err + curate("inspect", "run").err
    assert curate("select", "run", "--count", "30", "-q").code == 0
    said = curate("verify", "run")
    assert (said.code, said.err) == (0, f"{warning}to write them anew: curate run run/recipe.yaml\n")
    assert json.loads(curate("verify", "run", "--json").out)["changed"] == ["select"]
    said = curate("inspect", "run")
    assert said.out.splitlines()[2].split()[:2] == ["kept", "30"]
    assert said.err.startswith(warning)
    facts = json.loads(curate("inspect", "run", "--json").out)
    assert facts["counts"]["kept"] == 30
    assert facts["counts"]["dropped"] == {"over_budget": 120}
    assert facts["changed"] == ["select"]
    assert len(written()) == 45
    assert curate("run", "run/recipe.yaml", "-q").code == 0
    assert written() == kept()
    assert curate("verify", "run").err == ""
    assert open_run("run").manifest()["counts"] == facts["counts"]


def test_the_decision_before_fits_the_shards_again(copied_run):
    assert curate("select", "run", "--method", "prototypes", "-q").code == 0
    assert verify_run("run")["changed"] == ["select"]
    assert curate("select", "run", *DENSITY, "-q").code == 0
    assert verify_run("run")["changed"] == []


def test_verify_checks_new_decisions_against_their_own_mark(copied_run):
    assert curate("select", "run", "--count", "30", "-q").code == 0
    marker = Path("run/5_decisions/_done.json")
    told = storage.read_json(marker)
    told["facts"]["kept"] = 31
    storage.write_record(marker, told)
    with pytest.raises(RunError, match="decisions do not match"):
        verify_run("run")


@pytest.mark.parametrize(
    "flags",
    [["--count", "151"], ["--where", "distance < 0.01", "--keep", "0.9", *DENSITY, "--write"]],
    ids=["select", "filter and select"],
)
def test_a_selection_that_fails_leaves_the_run_as_it_was(copied_run, flags):
    before = whole(copied_run)
    said = curate("select", "run", *flags)
    assert said.code == 1
    assert "rows are eligible" in said.error
    assert changed(before, whole(copied_run)) == []
    assert not Path("run/.work/undo").exists()
    assert verify_run("run")["changed"] == []
    assert curate("run", "run/recipe.yaml", "-q", "--out", "run").code == 0
    assert changed(before, whole(copied_run)) in ([], ["recipe.yaml"]), "the run goes on as before"


@pytest.mark.parametrize("stage", ["dedup", "write", "report"])
@pytest.mark.parametrize(
    "error", [RunError("the disk is full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"]
)
def test_an_error_anywhere_leaves_the_run_as_it_was(copied_run, monkeypatch, stage, error):
    before, mark = whole(copied_run), runner.STAGES[stage]

    def fail(context):
        mark(context)
        raise error

    monkeypatch.setitem(runner.STAGES, stage, fail)
    recipe = rescore.chosen_recipe("run", ["filter=['distance < 0.5']", "select.keep=0.1"])
    with pytest.raises(type(error)):
        rescore.select_run(recipe, write=True)
    assert changed(before, whole(copied_run)) == []
    assert leftovers(copied_run) == []


def test_what_a_killed_process_held_is_not_brought_back(copied_run):
    shutil.copytree("run/5_decisions", "run/.work/undo/5_decisions")
    assert curate("select", "run", "--count", "30", "-q").code == 0
    assert not Path("run/.work/undo").exists()
    assert curate("select", "run", "--count", "151", "-q").code == 1
    assert len(kept()) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select", "nope"], "nope is not a run folder: it has no recipe.yaml"),
        (["score", "nope"], "nope is not a run folder: it has no recipe.yaml"),
        (["select", "run", "--bogus"], "No such option: --bogus"),
        (["select", "run", "--method", "best"], "select.method must be 'auto', 'density', 'random'"),
        (["select", "run", "--keep", "1.4"], "select.keep must be in (0, 1], got 1.4"),
        (["select", "run", "--keep", "0.3", "--count", "3"], "select takes keep (a share) or count"),
        (["select", "run", "--method", "hardest"], "select needs by (a score column) for method hardest"),
        (["select", "run", "--by", "distance"], "select.by is not a setting of method density; it belongs to hardest"),
        (["select", "run", "--method", "hardest", "--by", "el2n"],
         "run has no score 'el2n'; first: curate score run heads"),
        (["select", "run", "--weight", "linupper"], "run has no score 'loss'; first: curate score run heads"),
        (["select", "run", "--weight", "heavy"], "weight.method must be 'concept'"),
        (["select", "run", "--method", "hardest", "--by", "nosuch"], "select.by: no score 'nosuch'"),
        (["select", "run", "--where", "nosuch > 1"], "filter 'nosuch > 1': no column 'nosuch'"),
        (["select", "run", "--where", "{by: distance"], "--where: '{by: distance' is not YAML"),
        (["select", "run", "--set", "cluster.concepts=4"],
         ("cluster.concepts cannot be changed by curate select: it decides by what is embedded, clustered and scored "
         "already; use: curate run run/recipe.yaml --set cluster.concepts=4")),
        (["select", "run", "--set", "seed=5"],
         ("seed cannot be changed by curate select: it decides by what is embedded, clustered and scored already; "
         "use: curate run run/recipe.yaml --set seed=5")),
        (["select", "run", "--set", "score=[heads, pair]"],
         ("score cannot be changed by curate select: it decides by what is embedded, clustered and scored already; "
         "use: curate score run --set 'score=[heads, pair]'")),
        (["select", "run", "--set", "embed.column=x"],
         ("embed.column cannot be changed by curate select: it decides by what is embedded, clustered and scored "
         "already; use: curate run run/recipe.yaml --out NEW-FOLDER --set embed.column=x")),
        (["score", "run", "--set", "select.keep=0.2"],
         ("select.keep cannot be changed by curate score: it adds scores to a run that is decided, and changes nothing "
         "else; use: curate select run --set select.keep=0.2")),
        (["score", "run", "--set", "write.format=webdataset"],
         ("write.format cannot be changed by curate score: it adds scores to a run that is decided, and changes "
         "nothing else; use: curate select run --write --set write.format=webdataset")),
        (["score", "run", "--set", "seed=5"], "seed cannot be changed by curate score: "),
        (["retry", "run", "--set", "source.uid=id2"],
         ("source.uid cannot be changed by curate retry: it embeds the rows that failed as all others were; "
         "use: curate run run/recipe.yaml --out NEW-FOLDER --set source.uid=id2")),
        (["export", "run", "--format", "parquet", "--out", "out", "--set", "select.keep=0.2"],
         ("select.keep cannot be changed by curate export: it writes what is decided; "
         "use: curate select run --set select.keep=0.2")),
        (["export", "run", "--format", "parquet", "--out", "out", "--set", "write.path=x"],
         "write.path cannot be set by curate export: it writes to the place named on its command line"),
        (["select", "run", "--set", "run=other"], "run is run here and cannot be set, got 'other'"),
        (["score", "run", "--set", "run=other"], "run is run here and cannot be set, got 'other'"),
        (["score", "run", "--bogus"], "No such option: --bogus"),
        (["score", "run", "headz"], "score: 'headz' is no family of scores; did you mean 'heads'?"),
        (["score", "run", "zzz"], "score: 'zzz' is no family of scores; there are clip_score, pair"),
        (["score", "run", "file"], "score: file needs file; give it as --file FILE"),
        (["score", "run", "normsim"], "score: normsim needs target; give it as '{normsim: {target: ...}}'"),
        (["score", "run", "{heads: {seeds: 0}}"], "score.heads.seeds must be at least 1, got 0"),
        (["score", "run", "{a: 1, b: 2}"], "score must list families (clip_score, pair"),
        (["score", "run", "{a: 1"], "score: '{a: 1' is not YAML"),
        (["score", "run", "7"], "score takes a family (clip_score, pair"),
        (["score", "run", "noise"], "score: noise needs the column 'neg_aum'"),
        (["score", "run", "--on", "uid"], "--on goes with --file FILE"),
        (["score", "run", "--higher-is", "harder"], "--higher-is goes with --file FILE"),
    ],
)  # fmt: skip
def test_wrong_usage(copied_run, arguments, message):
    before = whole(copied_run)
    said = curate(*arguments)
    assert said.code == 2
    assert said.error.startswith(message)
    assert said.out == ""
    assert changed(before, whole(copied_run)) == []


def test_switching_methods_keeps_what_still_fits(copied_run):
    by = ["select.method=window", "select.by=distance", "select.offset=3"]
    assert curate("select", "run", *(word for item in by for word in ("--set", item)), "-q").code == 0
    recipe = rescore.chosen_recipe("run", settings={"select.drop_hardest": "10%"})
    assert (recipe.select.offset, recipe.select.drop_hardest) == (None, 0.1)
    recipe = rescore.chosen_recipe("run", settings={"select.method": "top"})
    assert recipe.select.by == "distance"
    assert "offset" not in recipe.select.model_dump()
    for way in ({"settings": {"select.method": "density"}}, {"overrides": ["select.method=density"]}):
        assert rescore.chosen_recipe("run", **way).select.score_column is None
    with pytest.raises(
        UsageError, match=r"select\.by is not a setting of method density; it belongs to hardest"
    ):
        rescore.chosen_recipe("run", ["select.by=distance"], {"select.method": "density"})


def test_a_method_with_a_score_of_its_own_does_not_take_that_of_another(copied_run):
    by = ["select.method=hardest", "select.by=distance"]
    assert curate("select", "run", *(word for item in by for word in ("--set", item)), "-q").code == 0
    before = load_recipe("run/recipe.yaml").model_dump(mode="json")
    for method, score in (("metaclip", "metaclip_t"), ("dual", "dual"), ("triage", "loss")):
        select = parse_recipe(override(before, settings={"select.method": method})).select
        assert (select.score_column, select.on_null) == (
            score,
            "drop" if method == "metaclip" else "proportional",
        )
        back = {"select.method": "hardest", "select.by": "el2n"}
        own = {
            **before,
            "select": select.model_dump(mode="json", include={"method", "keep", "by", "on_null"}),
        }
        assert parse_recipe(override(own, settings=back)).select.on_null == "proportional"
        with pytest.raises(RecipeError, match="needs by"):
            parse_recipe(override(own, settings={"select.method": "hardest"}))
        named = override(before, settings={"select.method": method, "select.by": "distance"})
        assert parse_recipe(named).select.score_column == "distance"


def test_another_method_prefers_what_it_prefers_by_itself(copied_run):
    assert curate("select", "run", "--method", "random", "-q").code == 0
    assert curate("select", "run", "--method", "density", "-q").code == 0
    assert rescore.chosen_recipe("run", settings={"select.method": "prototypes"}).select.prefer == "hardest"


def test_another_method_ends_what_auto_does_by_itself(copied_run):
    assert curate("select", "run", "--method", "auto", "-q").code == 0
    kept = rescore.chosen_recipe("run", settings={"select.keep": 0.2}).select
    assert (kept.method, kept.drop_noise, kept.floor) == ("auto", "auto", "half")
    other = rescore.chosen_recipe("run", settings={"select.method": "random"}).select
    assert (other.drop_noise, other.floor) == (None, None)
    named = rescore.chosen_recipe("run", settings={"select.method": "random", "select.floor": "half"}).select
    assert (named.drop_noise, named.floor) == (None, "half")
    assert (
        curate("select", "run", "--method", "random", "--floor", "5", "--drop-noise", "none", "-q").code == 0
    )
    assert rescore.chosen_recipe("run", settings={"select.method": "density"}).select.floor == 5


def test_weights_are_told_by_their_effective_size(copied_run):
    said = curate("select", "run", "--weight", "concept", "--keep", "1", "--json", "-q")
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    weight = open_run("run").decisions().filter("keep")["weight"].cast(pl.Float64)
    assert told["effective"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-5)
    assert told["effective"] < N
    assert told["counts"]["kept"] == N
    assert (told["run"], told["worked"], told["shards_are_earlier"]) == ("run", ["select"], True)
    assert "effective sample size" in curate("select", "run").out
    said = curate("select", "run", "--weight", "none", "-q")
    assert "effective" not in said.out
    assert load_recipe("run/recipe.yaml").weight is None


def test_weights_by_a_column_forget_it_with_another_method(copied_run):
    before = rescore.chosen_recipe("run", ["weight.by=distance"], {"weight.method": "linupper"})
    assert before.weight.by == "distance"
    Path("run/recipe.yaml").write_text(before.to_yaml())
    assert rescore.chosen_recipe("run", settings={"weight.method": "extremes"}).weight.by == "distance"
    assert rescore.chosen_recipe("run", settings={"weight.method": "inverse"}).weight.column is None


def test_too_many_unusable_rows_are_told_after_all_is_written(copied_run):
    text = Path("run/recipe.yaml").read_text()
    assert curate("select", "run", "--count", "9", "-q").code == 0
    vectors = planted(40).astype(np.float32)
    vectors[:20] = np.nan
    glob = write_shards(Path("bad"), vectors)
    assert own(glob, "broken", "--set", "limits.unusable=1", keep="0.2").code == 0
    said = curate("select", "broken", "--keep", "0.1", "--set", "limits.unusable=0.1", "--write")
    assert said.code == 3
    assert "limits.unusable allows 10.0%" in said.error
    assert verify_run("broken")["changed"] == []
    assert text != Path("run/recipe.yaml").read_text()


#: What methods cannot do without.
NEEDED = {
    "window": {"by": "distance", "offset": 2}, "triage": {"misconception": True}, "quotas": {"per": "label"},
    **{one: {"by": "distance"} for one in ("hardest", "easiest", "top", "middle", "stratified", "weighted", "d2")},
}  # fmt: skip


@pytest.mark.parametrize(
    "dedup", [{}, {"epsilon": None}, {"epsilon": 0.1}], ids=["nothing said", "none", "0.1"]
)
def test_from_every_method_to_every_other_is_as_to_begin_with_it(tmp_path, monkeypatch, dedup):
    """What is left of a method are settings that were chosen, none of those that it has by itself."""
    heads = {"heads": {"dynamics": ["dual"], "epochs": 4}}
    scores = [heads, {"metaclip": {"entries": "names.txt"}}, {"objects": {}}]
    values = {"run": str(tmp_path / "run"), "source": {"path": "a.parquet"}, "score": scores, "dedup": dedup}

    def with_method(name):
        budget = {} if selectors()[name].keeps_all else {"keep": 0.3}
        return parse_recipe({**values, "select": {"method": name, **budget, **NEEDED.get(name, {})}})

    for old in selectors():
        before = with_method(old).model_dump(mode="json")
        monkeypatch.setattr(rescore, "_values", lambda run, before=before: before)
        for new, kind in selectors().items():
            asked = {"method": new, **({} if kind.keeps_all else {"keep": 0.3}), **NEEDED.get(new, {})}
            found = rescore.chosen_recipe(
                "run", settings={f"select.{name}": one for name, one in asked.items()}
            )
            begun = with_method(new).select
            if new == "auto" != old:  # a run that has near-duplicates, or none, goes on with what it has
                begun = begun.model_copy(update={"at_most": False})
            assert found.select == begun, (old, new)


# --- an unfinished, a busy and an outdated run ---


def test_an_unfinished_run_is_scored_but_not_decided(finished_run):
    assert own(f"{finished_run}/in/*.parquet", "new", "--dry-run").code == 0
    shutil.copy(finished_run / "run/recipe.yaml", "recipe.yaml")
    assert curate("run", "recipe.yaml", "--out", "new", "--until", "embed", "-q").code == 0
    said = curate("select", "new", "--keep", "0.2")
    assert said.code == 2
    assert said.error == (
        "new: 2_concepts is not there or not up to date with the source and the recipe; "
        "first: curate run new/recipe.yaml"
    )
    assert load_recipe("new/recipe.yaml").select.keep == 0.3
    assert json.loads(curate("score", "new", "--json", "-q").out)["worked"] == ["cluster", "score"]
    assert not Path("new/5_decisions").exists()
    said = curate("select", "new", "--keep", "0.2")
    assert said.code == 0
    assert len(kept("new")) == 30
    assert "new/6_filtered" in said.err
    assert curate("select", "new", "--write", "-q").code == 0
    assert written("new") == kept("new")


@pytest.mark.parametrize(
    "command", [["select", "run", "--count", "3"], ["score", "run", "--set", "memory=3GB"]]
)
def test_a_run_that_is_being_written_is_left_alone(copied_run, command):
    before = whole(copied_run)
    with RunFolder(Path("run")).lock():
        said = curate(*command)
    assert said.code == 1
    assert "run is being written by process" in said.error
    assert changed(before, whole(copied_run)) == []


@pytest.mark.parametrize(
    "command", [["select", "run", "--count", "3"], ["score", "run", "--set", "memory=3GB"]]
)
def test_a_source_that_changed_is_told(finished_run, copied_run, command):
    shutil.copytree(finished_run / "in", "in")
    text = Path("run/recipe.yaml").read_text().replace(f"{finished_run}/in", f"{Path.cwd()}/in")
    Path("run/recipe.yaml").write_text(text)
    assert curate("select", "run", "-q").code == 0
    before = whole(copied_run)
    shutil.copy("in/train-00000-of-00003.parquet", "in/train-00009-of-00003.parquet")
    said = curate(*command)
    assert said.code == 2
    assert said.error.startswith("run: 0_samples is not there or not up to date with the source")
    assert changed(before, whole(copied_run)) == []
