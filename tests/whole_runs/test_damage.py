"""Damaged files are noticed, made anew and said; nothing else is; and what was recorded is trusted cheaply."""

import itertools
import json
import os
import shutil

import polars as pl
import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.errors import RunError, UsageError
from curate.io import checksums, records, storage
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.folder import MARKER, RunFolder
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import changed, files_below, tables, times


def flip(path):
    """Flip one bit in the middle of a file, in place; of JSON one that changes what it says.

    The seventeenth digit of a number need not: 0.30000000000000004 and 0.30000000000000005 are one float64. JSON that was
    cut before, and that nobody needed to repair, says nothing: any bit does.
    """
    content = path.read_bytes()
    plain = path.suffix != ".json" or said(content) is None
    for at in range(len(content) // 2, len(content)):
        flipped = bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]])
        if plain or said(flipped) != said(content):
            path.write_bytes(flipped)
            return
    raise AssertionError(f"no bit of {path} changes what it says")


def said(content):
    """Return what JSON says; None if it is not JSON."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_flip_of_json_changes_what_it_says(tmp_path):
    path = tmp_path / "one.json"
    path.write_text("[0.30000000000000004]")
    flip(path)
    assert said(path.read_bytes()) != [0.30000000000000004]


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bit flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
}

#: A file that is not there, and one that only its checksum betrays; the others in the long tests.
USUAL_DAMAGES = ("deleted", "bit flipped")

#: Every kind of file a finished run has (logs aside), by the beginning of its name.
KINDS = (
    ".work/copies/found-", ".work/keys/_done.json", ".work/keys/part-", ".work/parts.json", ".work/recipe.json",
    ".work/shards.json", ".work/times.json", "0_samples/_done.json", "0_samples/part-", "1_embeddings/_done.json",
    "1_embeddings/part-", "2_concepts/_done.json", "2_concepts/assignments/part-", "2_concepts/centroids.parquet",
    "2_concepts/concepts.parquet", "2_concepts/fitted.parquet", "3_scores/clip_score/_done.json", "3_scores/clip_score/part-",
    "3_scores/filter/_done.json", "3_scores/filter/part-", "4_duplicates/_done.json",
    "4_duplicates/_compared/compared.parquet", "4_duplicates/part-",
    "5_decisions/_done.json", "5_decisions/_concepts/concepts.parquet", "5_decisions/part-", "6_filtered/README.md",
    "6_filtered/_done.json", "6_filtered/train-", "7_report/_done.json", "7_report/report.html",
    "7_report/summary.json", "concept_names.json", "manifest.json", "recipe.yaml",
)  # fmt: skip
#: Kinds that may be another after they were made anew (times are in them), or are not needed any more.
LOOSE = (".work/copies/", ".work/times.json", "7_report/report.html", "manifest.json")


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Flushing to the disk takes most of the time of small runs, and nothing is killed here."""
    monkeypatch.setattr(storage, "_sync", lambda path: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source, a finished run of it (`whole`), and its settings."""
    folder = tmp_path_factory.mktemp("damage")
    write_shards(folder / "in", planted(160, copies=10, near=16, clusters=4), shards=2)
    runner.run(recipe(folder))
    (folder / "run").rename(folder / "whole")
    return folder


@pytest.fixture
def run(folder):
    """The run folder as it was when it was finished, times and all."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(folder / "whole", folder / "run", copy_function=shutil.copy2)
    return folder / "run"


def recipe(folder, **changes):
    defaults = {"cluster": {"concepts": 3}, "select": {"keep": 0.4}, "filter": ["distance < 0.9"]}
    return parse_recipe(recipe_values(str(folder / "in" / "*.parquet"), folder / "run", **defaults | changes))


def again(folder):
    return runner.run(recipe(folder)).worked


def one_of(run, kind):
    """Return the last file of a kind."""
    return [path for path in files_below(run) if str(path.relative_to(run)).startswith(kind)][-1]


def seals_in(run):
    return [
        path for path in files_below(run) if path.name.endswith(".seal") and ".work/copies" not in str(path)
    ]


def test_there_is_no_other_kind_of_file(run):
    names = [str(path.relative_to(run)) for path in files_below(run) if path.parent.name != "logs"]
    assert [name for name in names if not name.startswith(KINDS) and not name.endswith(".seal")] == []
    assert [kind for kind in KINDS if not any(name.startswith(kind) for name in names)] == []
    assert seals_in(run) == []


def stage_of(kind):
    """Return what is not damaged together with `kind`: what one stage makes, and both places of the recipe."""
    folder = kind.rpartition("/")[0] if not kind.startswith("2_") else "2_concepts"
    return {"0_samples": "embed", "1_embeddings": "embed", "": ".work"}.get(folder, folder)


def rounds():
    """Return the kinds in some groups, with at most one kind of each stage in a group."""
    by_stage = {stage: [kind for kind in KINDS if stage_of(kind) == stage] for stage in map(stage_of, KINDS)}
    together = itertools.zip_longest(*by_stage.values())
    return [[kind for kind in group if kind is not None] for group in together]


def assert_repaired(run, path, kind, content):
    if not kind.startswith(LOOSE) and not kind.endswith(MARKER):
        assert path.read_bytes() == content, path
    assert path.exists() or kind.startswith((".work/copies", ".work/times")), path


@pytest.mark.parametrize(
    "damage",
    [one if one in USUAL_DAMAGES else pytest.param(one, marks=pytest.mark.long) for one in DAMAGES],
)
def test_any_damage_is_noticed_and_made_anew(folder, run, damage):
    """Of each stage one kind of file after the other; stages notice on their own."""
    expected = tables(run)
    for kinds in rounds():
        contents = {kind: (path, path.read_bytes()) for kind in kinds for path in [one_of(run, kind)]}
        for path, _ in contents.values():
            DAMAGES[damage](path)
        again(folder)
        assert changed(expected, tables(run)) == [], kinds
        for kind, (path, content) in contents.items():
            assert_repaired(run, path, kind, content)
            if not path.exists():
                path.write_bytes(content)
    assert seals_in(run) == []
    assert again(folder) == ()
    verify_run(run)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_to_any_file_alone(folder, run, kind):
    expected, path = tables(run), one_of(run, kind)
    content = path.read_bytes()
    for damage in DAMAGES.values():
        damage(path)
        again(folder)
        assert changed(expected, tables(run)) == []
        assert_repaired(run, path, kind, content)
        if not path.exists():
            path.write_bytes(content)
        assert again(folder) == ()
        assert seals_in(run) == []
    verify_run(run)


def test_a_damaged_file_is_named_and_nothing_else_is_made(folder, run, caplog):
    before = times(run)
    path = one_of(run, "1_embeddings/part-")
    flip(path)
    assert again(folder) == ("embed",)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1 and said[0].startswith(f"{path} is not what was written there")
    new = [name for name in changed(before, times(run)) if not name.startswith("logs/")]
    samples = path.with_suffix(".parquet").name  # vectors and samples of a part are made together
    marks = {f"{name}/{MARKER}" for name in ("0_samples", "1_embeddings")}
    assert set(new) <= {f"1_embeddings/{path.name}", f"0_samples/{samples}", *marks, ".work/times.json"}
    assert open_run(run).manifest()["counts"]["rows"] == 160


# --- before a stage is finished -------------------------------------------------------------------------------

#: Stages by what they leave when they are ended before their mark.
UNFINISHED = {
    ".work/keys": (".work/keys/part-",),
    "1_embeddings": ("0_samples/part-", "1_embeddings/part-", ".work/copies/found-"),
    "2_concepts": ("2_concepts/centroids", "2_concepts/concepts", "2_concepts/assignments/part-"),
    "3_scores/clip_score": ("3_scores/clip_score/part-",),
    "3_scores/filter": ("3_scores/filter/part-",),
    "4_duplicates": ("4_duplicates/part-", ".work/dedup/rows-", ".work/dedup/found-"),
    ".work/select/decisions": (
        ".work/select/decisions/part-", ".work/select/decisions/_concepts/concepts", ".work/select/rows-",
        ".work/select/ranks-", ".work/select/stats-",
    ),
}  # fmt: skip


#: What has the most kinds of files; the other stages in the long tests.
USUAL_MARKS = ("1_embeddings", ".work/select/decisions")


@pytest.mark.parametrize(
    "mark", [one if one in USUAL_MARKS else pytest.param(one, marks=pytest.mark.long) for one in UNFINISHED]
)
@pytest.mark.parametrize("damage", ["bit flipped", pytest.param("truncated", marks=pytest.mark.long)])
def test_damage_to_what_an_interrupted_stage_left(folder, run, monkeypatch, mark, damage):
    expected = tables(run)
    real = RunFolder.mark

    def stop(self, folder, fingerprint, facts):
        if folder == run / mark:
            raise KeyboardInterrupt
        real(self, folder, fingerprint, facts)

    shutil.rmtree(run)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFolder, "mark", stop)
        again(folder)
    for kind in UNFINISHED[mark]:
        DAMAGES[damage](one_of(run, kind))
    again(folder)
    assert changed(expected, tables(run)) == []
    assert seals_in(run) == []
    verify_run(run)


def test_parts_that_an_interrupted_stage_left_whole_are_not_made_again(folder, run, monkeypatch):
    real = RunFolder.mark

    def stop(self, folder, fingerprint, facts):
        if folder == run / "1_embeddings":
            raise KeyboardInterrupt
        real(self, folder, fingerprint, facts)

    shutil.rmtree(run)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFolder, "mark", stop)
        again(folder)
    shutil.copytree(run, folder / "copy")  # and copied, without its times
    shutil.rmtree(run)
    shutil.copytree(folder / "copy", run, copy_function=shutil.copyfile)
    shutil.rmtree(folder / "copy")
    again(folder)
    assert open_run(run).manifest()["stages"]["embed"]["parts_made"] == 0


def test_a_file_that_changes_before_the_mark_is_not_marked(tmp_path):
    run = RunFolder(tmp_path)
    part = tmp_path / "stage" / "part-1.parquet"
    with storage.atomic(part, checksum=True) as partial:
        partial.write_text("what was computed")
    part.write_text("what was damaged!")
    with pytest.raises(RunError, match=r"part-1\.parquet: its bytes changed after it was written"):
        run.mark(part.parent, "stamp", {})
    assert run.marker(part.parent) is None and not checksums.verify_or_remove(part) and not part.exists()


# --- what is trusted ------------------------------------------------------------------------------------------


def count_hashes(monkeypatch):
    """Return the list of the files that are hashed from now on."""
    read, real = [], checksums.hash_file
    monkeypatch.setattr(checksums, "hash_file", lambda path: read.append(path) or real(path))
    return read


def test_a_copied_folder_is_done_and_is_read_once(folder, run, monkeypatch):
    shutil.rmtree(run)
    shutil.copytree(folder / "whole", run, copy_function=shutil.copyfile)  # as `cp -r` does: with new times
    expected = tables(run)
    read = count_hashes(monkeypatch)
    assert again(folder) == ()
    assert len(read) >= 20 and len(set(read)) == len(read)
    read.clear()
    assert again(folder) == ()
    assert read == []
    assert changed(expected, tables(run)) == []


def test_size_and_time_as_recorded_are_trusted_and_verify_reads_all(folder, run, monkeypatch):
    path = one_of(run, "0_samples/part-")
    facts = path.stat()
    flip(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a failing disk does
    read = count_hashes(monkeypatch)
    assert again(folder) == () and read == []
    with pytest.raises(RunError, match=path.name):
        verify_run(run)


def test_a_mark_from_before_times_were_recorded_still_counts(folder, run):
    marker = run / "1_embeddings" / MARKER
    told = storage.read_json(marker)
    for facts in told["files"].values():
        del facts["mtime_ns"]
    storage.write_json(marker, told)  # without a checksum, too
    assert again(folder) == ()
    assert all("mtime_ns" in facts for facts in storage.read_json(marker)["files"].values())


def test_a_seal_that_is_gone_or_damaged_costs_nothing(tmp_path):
    part = tmp_path / "part-1.arrow"
    with storage.atomic(part, checksum=True) as partial:
        partial.write_text("x")
    assert checksums.read(part)["bytes"] == 1
    seal = tmp_path / ".part-1.arrow.seal"
    for damage in ("truncated", "emptied", "deleted"):
        content = seal.read_bytes()
        DAMAGES[damage](seal)
        assert checksums.read(part) is None and checksums.verify_or_remove(part)
        seal.write_bytes(content)
    with storage.atomic(part) as partial:
        partial.write_text("written anew, unsealed")
    assert not seal.exists() and checksums.verify_or_remove(part)


def test_every_flipped_bit_of_a_record_is_noticed():
    """Or it does no harm: one of white space, or of the checksum's own name."""
    value = {"facts": {"kept": 12, "share": 0.25}, "files": {"a": {"hash": "0f"}}, "none": None}
    whole = json.dumps(records.with_checksum(value), indent=2).encode()
    noticed = 0
    for at, bit in itertools.product(range(len(whole)), range(8)):
        content = bytearray(whole)
        content[at] ^= 1 << bit
        try:
            found = records.verified(json.loads(content.decode()))
        except ValueError:
            found = None
        noticed += found is None
        assert found is None or {name: found.get(name) for name in value} == value, (at, bit)
    assert noticed > 6 * len(whole)


def test_records_of_any_shape_come_back(tmp_path):
    for value in ({}, [], [1, {"a": [None]}], {"items": 3}, {"a": (1, 2), "ä": "ö"}):
        storage.write_record(tmp_path / "x.json", value)
        assert storage.read_json(tmp_path / "x.json") == json.loads(json.dumps(value))
    storage.write_record(tmp_path / "x.json", {10: "a", 9: "b"})
    assert storage.read_json(tmp_path / "x.json") == {"10": "a", "9": "b"}


def test_a_damaged_recipe_in_the_folder_protects_it_all_the_same(folder, run):
    """Another source is refused, although `recipe.yaml` cannot say any more what the source was."""
    (run / "recipe.yaml").unlink()
    write_shards(folder / "other", planted(30), shards=1)
    other = {"source": {"path": str(folder / "other" / "*.parquet"), "uid": "id"}}
    with pytest.raises(UsageError, match=r"none of its 2 shards is in source\.path .*other/\*\.parquet"):
        runner.run(recipe(folder, **other))
    assert again(folder) == ()
    assert (run / "recipe.yaml").exists()


def test_a_command_that_reads_says_what_is_missing(run):
    (run / "5_decisions" / MARKER).write_bytes(b"")
    with pytest.raises(RunError, match="5_decisions is not there yet; finish the run first"):
        open_run(run).decisions()
    assert isinstance(open_run(run).samples(), pl.DataFrame)
    flip(run / "manifest.json")
    with pytest.raises(RunError, match=r"manifest\.json is not there yet"):
        open_run(run).manifest()
