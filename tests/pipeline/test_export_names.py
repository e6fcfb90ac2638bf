"""Exports in the names of the user's data: lists of names, CSV, open_clip, folders of links and copies."""

import csv
import json

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import files_below
from tests.fixtures.tars import member, members, tar

N = 48


def write_images(root):
    """Images in classes, some with captions; some described by a metadata file. Return them in the run's order."""
    names = [f"{'cat' if i % 2 else 'dog'}/{i // 2:03d}.png" for i in range(32)]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"image %d" % i)
        if i % 3 == 0:
            (root / name).with_suffix(".txt").write_text(f"tab\there, {i}" if i == 3 else f"caption {i}")
    told = [f"told/{i:03d}.jpg" for i in range(32, N)]
    (root / "told").mkdir()
    lines = ["file_name,code,text"] + [f'{i:03d}.jpg,{i:05d},"a, ""{i}"""' for i in range(32, N - 2)]
    (root / "told/metadata.csv").write_text("\n".join(lines) + "\n")
    for i, name in enumerate(told):
        (root / name).write_bytes(b"told %d" % i)
    return sorted(names) + told


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run on a folder of images, with vectors of their own: (run, folder of images)."""
    folder = tmp_path_factory.mktemp("names")
    write_images(folder / "in")
    np.save(folder / "vectors.npy", planted(N, clusters=4))
    values = recipe_values(
        str(folder / "in"), folder / "run", cluster={"concepts": 3}, select={"method": "random", "keep": 0.5}
    )
    values |= {"source": {"path": str(folder / "in")}, "embed": {"files": str(folder / "vectors.npy")}}
    runner.run(parse_recipe(values))
    return folder / "run", folder / "in"


def rows_of(run):
    """Return decisions and names in the order of the source, from the tables of the run."""
    stored = open_run(run)
    return stored.decisions().hstack(stored.samples().select("key")).sort("shard", "row")


def kept_names(run, keep=True):
    return rows_of(run).filter(pl.col("keep") == keep)["key"].to_list()


def export(run, form, out, *flags):
    said = curate("export", run, "--format", form, "--out", out, *flags)
    assert said.code == 0, said.err
    return said


def test_names_of_kept_dropped_and_all(done, tmp_path):
    run, _ = done
    for flags, names in (
        ((), kept_names(run)),
        (("--rows", "dropped"), kept_names(run, keep=False)),
        (("--rows", "all"), rows_of(run)["key"].to_list()),
    ):
        export(run, "names", tmp_path / "names.txt", *flags)
        assert (tmp_path / "names.txt").read_text().splitlines() == names
    assert 0 < len(kept_names(run)) < N
    export(run, "txt", tmp_path / "uids.txt", "--rows", "dropped")
    dropped = rows_of(run).filter(~pl.col("keep"))["uid"].to_list()
    assert (tmp_path / "uids.txt").read_text().splitlines() == dropped


def test_a_csv_has_every_row_and_columns_of_run_and_source(done, tmp_path):
    run, root = done
    export(run, "csv", tmp_path / "plain.csv")
    frame = pl.read_csv(tmp_path / "plain.csv")
    assert frame.columns == ["uid", "key", "shard", "row", "keep", "reason"]
    decisions = rows_of(run)
    for name in ("uid", "shard", "row", "keep", "reason"):
        assert frame[name].to_list() == decisions[name].to_list(), name
    columns = "uid,distance,caption,label,code,width,file_name"
    export(run, "csv", tmp_path / "more.csv", "--columns", columns, "--rows", "kept")
    with (tmp_path / "more.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == kept_names(run)
    assert list(rows[0]) == [*frame.columns, "distance", "caption", "label", "code", "width", "file_name"]
    near = dict(decisions.select("uid", "distance").rows())
    for row in rows:
        assert np.float32(row["distance"]) == np.float32(near[row["uid"]])
        image = root / row["key"]
        number = int(image.stem)
        if "told" in row["key"]:
            named = number < N - 2
            assert row["code"] == (f"{number:05d}" if named else "")
            assert row["caption"] == (f'a, "{number}"' if named else "")
        else:
            side = image.with_suffix(".txt")
            assert row["caption"] == (side.read_text() if side.exists() else "") and row["code"] == ""
            assert row["label"] == image.parent.name


def test_open_clip_gets_files_and_captions(done, tmp_path):
    run, root = done
    said = export(run, "open_clip", tmp_path / "train.csv")
    frame = pl.read_csv(tmp_path / "train.csv", separator="\t")
    assert frame.columns == ["filepath", "title"]
    captions = {}
    for name in kept_names(run):
        side = (root / name).with_suffix(".txt")
        number = int(side.stem)
        if side.exists():
            captions[str(root / name)] = side.read_text()
        elif "told" in name and number < N - 2:
            captions[str(root / name)] = f'a, "{number}"'
    assert dict(frame.rows()) == captions and 0 < len(captions) < len(kept_names(run))
    assert f"{len(kept_names(run)) - len(captions)} kept images have no caption" in said.err


@pytest.mark.parametrize("form", ["links", "copies"])
def test_a_folder_of_the_kept_images(done, tmp_path, form):
    run, root = done
    out = tmp_path / "out"
    said = json.loads(export(run, form, out, "--json").out)
    names = kept_names(run)
    wanted = set(names)
    for name in names:
        side = (root / name).with_suffix(".txt")
        wanted |= {str(side.relative_to(root))} if side.exists() else set()
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name[0] != "."}
    assert found == wanted | {"told/metadata.csv"} and (said["rows"], said["files"]) == (
        len(names),
        len(found),
    )
    for name in wanted:
        assert (out / name).read_bytes() == (root / name).read_bytes()
        assert (out / name).is_symlink() == (form == "links")
        assert form == "copies" or (out / name).readlink() == (root / name).resolve()
    header, *lines = (root / "told/metadata.csv").read_text().splitlines()
    told = [line for line in lines if f"told/{line.split(',')[0]}" in names]
    assert (out / "told/metadata.csv").read_text().splitlines() == [header, *told]
    before = files_below(root)
    export(run, form, out)  # again: it replaces its own
    (out / "cat/mine.png").write_bytes(b"x")
    said = curate("export", run, "--format", form, "--out", out)
    assert said.code == 2 and "holds other files (cat/mine.png)" in said.error
    said = curate("export", run, "--format", form, "--out", root / "kept")
    assert said.code == 2 and "lies in the source" in said.error
    assert files_below(root) == before


@pytest.mark.parametrize("form", ["links", "copies"])
@pytest.mark.parametrize("linked", [False, True])
def test_an_export_leaves_nothing_of_an_earlier_one(done, tmp_path, form, linked):
    run, root = done
    stored, out, place = open_run(run), tmp_path / "out", tmp_path / "place"
    if linked:
        place.mkdir()
        out.symlink_to(place)
    export(run, form, out)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"cat", "dog", "told"}
    away = next(out.rglob("*.png"))
    away.unlink()
    away.symlink_to(tmp_path / "gone.png")  # as a link is whose picture was moved since
    people = stored.overrides
    people.drop(*rows_of(run).filter(~pl.col("key").str.starts_with("cat/"))["uid"])
    stored.select(at_most=True)
    export(run, form, out)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.name[0] != "."}
    names = kept_names(run)
    sides = {name.replace(".png", ".txt") for name in names if (root / name).with_suffix(".txt").exists()}
    assert names and found == {"cat", *names, *sides}
    assert out.is_symlink() == linked
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(["place"] if linked else [])}
    people.undo()
    stored.select(at_most=False)


def test_a_csv_has_the_labels_that_people_put_right(done, tmp_path):
    run, _ = done
    people, uids = open_run(run).overrides, rows_of(run)["uid"].to_list()
    export(run, "csv", tmp_path / "before.csv", "--columns", "label_corrected")
    before = pl.read_csv(tmp_path / "before.csv")
    assert before.columns[-1] == "label_corrected" and before["label_corrected"].null_count() == N
    people.wrong_label(uids[0], label="emu")
    people.wrong_label(uids[1])
    people.right_label(uids[2])
    for flags, columns in (
        ([], ["label_corrected", "label_check"]),
        (["--columns", "label_check,label"], ["label_check", "label", "label_corrected"]),
    ):
        export(run, "csv", tmp_path / "after.csv", *flags)
        after = pl.read_csv(tmp_path / "after.csv")
        assert after.columns == ["uid", "key", "shard", "row", "keep", "reason", *columns]
        judged = after.select("uid", "label_corrected", "label_check").filter(
            pl.col("label_check").is_not_null()
        )
        assert judged.rows() == [
            (uids[0], "emu", "wrong"),
            (uids[1], None, "wrong"),
            (uids[2], None, "right"),
        ]
    while people.undo():
        pass


def test_what_does_not_go_together_is_said(done, tmp_path):
    run, _ = done
    for form, flags, why in [
        (
            "names",
            ["--columns", "label"],
            "--columns is for --format parquet, webdataset, csv; names has none",
        ),
        ("csv", ["--columns", "lable"], "no column 'lable'; there are uid, "),
        ("csv", ["--rows", "some"], "--rows must be one of kept, dropped, all, got 'some'"),
        ("uids", ["--rows", "all"], "--rows is for --format txt, names, csv, not for uids"),
        ("csv", ["--columns", "image"], "the column 'image' of .*holds bytes"),
    ]:
        said = curate("export", run, "--format", form, "--out", tmp_path / "x", *flags)
        assert said.code == 2, said.err
        pattern = pl.Series([said.error]).str.contains(why)
        assert pattern.item(), said.error
    said = curate("export", run, "--format", "links", "--out", "s3://bucket/x")
    assert said.code == 2 and "use --format copies" in said.error


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A finished run on a table of paths, inside and outside the folder of the shard, with lists: (run, folder)."""
    folder = tmp_path_factory.mktemp("paths")
    for i in range(12):
        place = folder / ("in/img" if i < 6 else "far/img") / f"{i % 6}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"image %d" % i)
    paths = [f"img/{i}.png" if i < 6 else str(folder / f"far/img/{i % 6}.png") for i in range(12)]
    paths[3] = "img/gone.png"
    extra = {
        "path": [*paths, None, "https://example.com/a.png"][:13],
        "tags": [["a", "ü"]] * 13,
        "raw": [b"\xff"] * 13,
    }
    write_shards(folder / "in", planted(13), shards=2, extra=extra)
    values = recipe_values(
        str(folder / "in/*.parquet"), folder / "run", cluster={"concepts": 2},
        select={"method": "random", "keep": 1.0}, dedup={"epsilon": 1e-9},
    )  # fmt: skip
    values["source"] |= {"root": [str(folder / "in"), str(folder / "far")], "image": "path"}
    runner.run(parse_recipe(values))
    return folder / "run", folder


def test_paths_of_a_table_become_files(table, tmp_path):
    run, folder = table
    said = export(run, "copies", tmp_path / "out")
    assert "the files of 2 kept images are not there, such as img/gone.png" in said.err
    found = sorted(
        (path.read_bytes(), str(path.relative_to(tmp_path / "out")))
        for path in (tmp_path / "out").rglob("*.png")
    )
    wanted = [(b"image %d" % i, f"img/{i}.png") for i in range(6) if i != 3] + [(b"image 9", "img/3.png")]
    away = "/".join(folder.resolve().parts[1:])
    wanted += [(b"image %d" % i, f"elsewhere/{away}/far/img/{i - 6}.png") for i in range(6, 12) if i != 9]
    assert found == sorted(wanted), "two files of one path stay two"
    export(run, "links", tmp_path / "links")
    links = {
        str(path.relative_to(tmp_path / "links")): path.read_bytes()
        for path in (tmp_path / "links").rglob("*.png")
    }
    assert links == {name: data for data, name in wanted}
    export(run, "csv", tmp_path / "a.csv", "--columns", "tags,path")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["tags"] for row in rows} == {'["a", "ü"]'} and rows[0]["path"] == "img/0.png"
    said = curate("export", run, "--format", "csv", "--columns", "raw", "--out", tmp_path / "b.csv")
    assert said.code == 2 and "holds bytes that are no text" in said.error
    said = export(run, "names", tmp_path / "n.txt")
    assert "1 of 13 rows have no name; they are left out" in said.err


def test_a_tar_has_keys_and_json_fields_but_no_files(tmp_path):
    parts = []
    for i in range(12):
        about = json.dumps({"url": f"http://a/{i}.jpg", "n": i}) if i else "{}"
        parts += [member(f"{i:04d}.jpg", b"image %d" % i), member(f"{i:04d}.json", about.encode())]
    (tmp_path / "0.tar").write_bytes(tar(*parts))
    np.save(tmp_path / "vectors.npy", planted(12))
    values = recipe_values(str(tmp_path / "0.tar"), tmp_path / "run", cluster={"concepts": 2})
    values |= {"source": {"path": str(tmp_path / "0.tar")}, "embed": {"files": str(tmp_path / "vectors.npy")}}
    runner.run(parse_recipe(values))
    export(tmp_path / "run", "csv", tmp_path / "a.csv", "--columns", "json.url,json.n,__key__,caption")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["json.url"] for row in rows] == ["", *(f"http://a/{i}.jpg" for i in range(1, 12))]
    assert [row["json.n"] for row in rows] == ["", *map(str, range(1, 12))]
    assert [row["key"] for row in rows] == [row["__key__"] for row in rows] == [f"{i:04d}" for i in range(12)]
    assert {row["caption"] for row in rows} == {""}
    for form in ("links", "copies", "open_clip"):
        said = curate("export", tmp_path / "run", "--format", form, "--out", tmp_path / form)
        assert said.code == 2 and "stands in the shard itself; use --format webdataset" in said.error
        assert not (tmp_path / form).exists()


def test_captions_are_those_that_the_run_took(tmp_path):
    """With `source.caption: {take, of}`, a list and the shards hold the caption that was chosen."""
    both = {"a": [f"a {i}" for i in range(N)], "b": [f"longer {i}" for i in range(N)]}
    glob = write_shards(tmp_path / "in", planted(N), extra=both)
    values = recipe_values(glob, tmp_path / "run", write={"format": "webdataset"})
    values["source"] |= {"caption": {"take": "longest", "of": ["a", "b"]}}
    runner.run(parse_recipe(values))
    assert (
        curate(
            "export",
            tmp_path / "run",
            "--format",
            "csv",
            "--columns",
            "caption,b",
            "--out",
            tmp_path / "x.csv",
        ).code
        == 0
    )
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N and all(row["caption"] == row["b"] for row in rows)
    written = [one for path in (tmp_path / "run/6_filtered").glob("*.tar") for one in members(path).items()]
    assert sorted(data.decode() for name, data in written if name.endswith(".txt")) == sorted(
        row["b"] for row in rows if row["keep"] == "true"
    )
