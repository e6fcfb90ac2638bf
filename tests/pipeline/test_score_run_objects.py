"""Objects and masked text in a run: against the model on crops and fills made here, then what must not change them, the edges."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import curate
from curate.analysis.explain import explain
from curate.analysis.verify.verify import decisions_digest
from curate.embedding import clip as models
from curate.embedding.decode import to_array
from curate.embedding.regions import crops, filled
from curate.errors import RunError, UsageError
from curate.execution.context import Part
from curate.linalg import load_unit
from curate.pipeline.runner import run
from curate.recipe.loading import load_recipe, parse_recipe
from curate.runs.run import open_run
from curate.scores.clip_score import clip_score
from curate.scores.regions.rows import boxes_in
from curate.sources import parquet
from curate.sources.base import Columns
from curate.sources.tar import webdataset
from curate.sources.text import json_file
from tests.fixtures.boxed import pictures, write_boxed, write_coco
from tests.fixtures.folders import times

pytestmark = pytest.mark.usefixtures("decoding_here")

N, COUNT = 30, 9
#: Boxes that are wrong, each in its own way; two are good.
WRONG = [
    {"bbox": [5, 5, 20, 20], "category": "car", "score": 0.9}, {"bbox": [5, 5, 0, 9], "category": "car", "score": 0.9},
    {"bbox": [99, 99, 9, 9], "category": "car", "score": 0.9}, {"bbox": [float("nan"), 0, 9, 9], "category": "car", "score": 0.9},
    {"bbox": [1, 1, 9, 9], "category": "car", "score": 0.1}, {"bbox": [1, 2], "category": "car", "score": 0.9}, None,
    {"bbox": [-9, -9, 30, 30], "category": None, "score": None},
]  # fmt: skip
MORE = {2: WRONG, 3: None, 4: []}


def values(glob, out, **changes):
    given = {
        "run": str(out), "source": {"path": glob, "uid": "id"}, "embed": {"model": "tiny"}, "cluster": {"concepts": 3},
        "score": ["clip_score", "objects", {"tmars": {"boxes": "objects", "confidence": 0.5}}],
        "select": {"method": "objects", "count": COUNT}, "memory": "2GB", "workers": 1,
    }  # fmt: skip
    return given | changes


def made(glob, out, until="select", **changes):
    run(parse_recipe(values(glob, out, **changes)), until=until)
    return open_run(out)


@pytest.fixture(scope="module")
def place(tmp_path_factory, decoding_here):
    folder = tmp_path_factory.mktemp("objects")
    write_boxed(folder / "data", N, more=MORE, captions=True)
    made(str(folder / "data" / "*.parquet"), folder / "run", until="report")
    return folder


@pytest.fixture(scope="module")
def finished(place):
    return open_run(place / "run")


@pytest.fixture(scope="module")
def clip():
    return models.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def rows(place):
    return pl.concat([pl.read_parquet(path) for path in sorted((place / "data").glob("*.parquet"))])


def good(row):
    """Return (index, class, box) of the objects that have a vector, by hand."""
    cells = row["objects"] or []
    if row["id"] == "s002":
        return [(0, "car", [5, 5, 25, 25]), (7, "object", [-9, -9, 21, 21])]
    return [
        (at, one["category"], [one["bbox"][0], one["bbox"][1], one["bbox"][0] + one["bbox"][2], one["bbox"][1] + one["bbox"][3]])
        for at, one in enumerate(cells)
    ]  # fmt: skip


def stored(place):
    folder = place / "run" / "3_scores" / "objects" / "_vectors"
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).to_pylist()


def table(run, family):
    folder = run.folder.scores(family)
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]).sort("uid")


def embedded(clip, images):
    """Return what the model makes of whole pictures, as it is stored."""
    return clip.encode_images(np.stack([to_array(one, clip.preprocess) for one in images])).astype(np.float16)


# --- against what is made here ------------------------------------------------------------------------------


def test_objects_are_what_stands_in_the_boxes(place, rows, clip):
    found = {(one["uid"], one["index"]): one for one in stored(place)}
    names, parts = [], []
    for row in rows.iter_rows(named=True):
        image = Image.open(io.BytesIO(row["image"])).convert("RGB")
        for index, category, box in good(row):
            one = found[row["id"], index]
            assert one["category"] == category
            edges = [one[edge] for edge in ("x0", "y0", "x1", "y1")]
            np.testing.assert_allclose(edges, np.clip(box, 0, [64, 48, 64, 48]))
            names.append((row["id"], index))
            parts += crops(image, np.array([box], np.float64), 0.1)
    want = embedded(clip, parts)
    np.testing.assert_array_equal(np.array([found[name]["vector"] for name in names], np.float16), want)
    assert len(found) == len(names) == len(stored(place))


def test_how_many_an_image_has(finished, rows):
    found = {row["uid"]: row for row in table(finished, "objects").iter_rows(named=True)}
    for row in rows.iter_rows(named=True):
        said, objects = found[row["id"]], good(row)
        if row["objects"] is None:
            assert said["objects_status"] == "no_boxes" and said["objects_count"] is None
            continue
        assert said["objects_status"] == "ok"
        assert (said["objects_count"], said["objects_classes"]) == (
            len(objects),
            len({one[1] for one in objects}),
        )
        assert said["objects_bad"] == (5 if row["id"] == "s002" else 0)
    facts = json.loads((finished.folder.scores("objects") / "_done.json").read_text())["facts"]
    n = sum(len(good(row)) for row in rows.iter_rows(named=True))
    assert facts["objects"] == {
        "ok": n, "unsure": 1, "not_finite": 3, "no_area": 1, "outside": 1, "left_out": 0, "no_image": 0, "no_vector": 0,
    }  # fmt: skip
    assert facts["warnings"] == [f"5 of {n + 6} objects have no vector (not_finite 3, no_area 1, outside 1)"]


def test_masked_text_is_scored_and_all_else_has_its_clip_score(finished, rows, clip):
    found = {row["uid"]: row for row in table(finished, "tmars").iter_rows(named=True)}
    plain = {row["uid"]: row["clip_score"] for row in table(finished, "clip_score").iter_rows(named=True)}
    masked, words = {}, []
    for row in rows.iter_rows(named=True):
        said = found[row["id"]]
        if row["caption"] is None:
            assert said["tmars_status"] == "no_text" and said["tmars_score"] is None
            continue
        assert said["tmars_status"] == "ok"
        boxes = np.array([box for *_, box in good(row)], np.float64).reshape(-1, 4)
        if not len(boxes):
            assert said["tmars_score"] == plain[row["id"]] and said["tmars_boxes"] == 0
            continue
        (masked[row["id"]],) = filled(Image.open(io.BytesIO(row["image"])).convert("RGB"), boxes, 0.0)
        words.append(row["caption"])
    text = load_unit(clip.encode_texts(words).astype(np.float16))
    want = clip_score(load_unit(embedded(clip, list(masked.values()))), text)
    assert [found[uid]["tmars_score"] for uid in masked] == want.tolist()
    assert len(masked) > N // 2 and all(found[uid]["tmars_score"] != plain[uid] for uid in masked)


def frame_of(place, run):
    """Return the rows of a run with the vectors of their objects."""
    vectors = pl.DataFrame(stored(place)).sort("uid", "index")
    cells = (
        vectors.select("uid", pl.struct("category", "vector").alias("objects")).group_by("uid").agg("objects")
    )
    frame = run.samples().select("uid").join(cells, on="uid", how="left")
    return frame.join(run.decisions().select("uid", "concept"), on="uid").join(run.scores(), on="uid")


@pytest.mark.parametrize(
    "settings",
    [{}, {"drop_noise": 0.2, "noise_by": "objects_classes", "floor": 2, "floor_per": "concept"}],
    ids=str,
)
def test_a_run_decides_as_a_frame_does(place, finished, tmp_path, settings):
    again, more, pinned = finished, {}, []
    if settings:
        shutil.copytree(place / "run", tmp_path / "run")
        (tmp_path / "pins.txt").write_text("s004\n")
        more, pinned = {"pin": [str(tmp_path / "pins.txt")]}, ["s004"]
        select = {"method": "objects", "count": COUNT, **settings}
        again = made(str(place / "data" / "*.parquet"), tmp_path / "run", select=select, **more)
    frame = frame_of(place, again).drop("concept_right", "distance", strict=False)
    frame = frame.with_columns(pinned=pl.col("uid").is_in(pinned))
    found = curate.select(frame, "objects", count=COUNT, **settings).sort("uid")
    decisions = again.decisions().sort("uid")
    assert decisions["keep"].sum() == COUNT
    for column in ("keep", "reason", "rank"):
        assert decisions[column].to_list() == found[column].to_list()


def test_rows_shipped_before_go_ahead(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    glob = str(place / "data" / "*.parquet")
    first = made(glob, tmp_path / "run", select={"method": "random", "count": COUNT})
    before = set(first.decisions().filter("keep")["uid"])
    more = made(glob, tmp_path / "run", select={"method": "objects", "count": COUNT + 3, "shipped": True})
    after = set(more.decisions().filter("keep")["uid"])
    assert before < after and len(after) == COUNT + 3
    fewer = made(glob, tmp_path / "run", select={"method": "objects", "count": 4, "shipped": True})
    assert set(fewer.decisions().filter("keep")["uid"]) < after


def test_what_is_covered_is_noted(place, finished):
    vectors = pl.DataFrame(stored(place)).sort("uid", "index")
    decisions = finished.decisions()
    facts = json.loads((finished.folder.decisions / "_done.json").read_text())["facts"]["objects"]
    kept = set(decisions.filter("keep")["uid"])
    by_class = vectors.group_by("category").agg(
        pl.len(), pl.col("uid").n_unique().alias("rows"), pl.col("uid").is_in(kept).any()
    )
    assert by_class["uid"].all()
    said = {one["class"]: (one["objects"], one["rows"]) for one in facts["classes"]}
    assert said == {name: (n, rows) for name, n, rows, _ in by_class.iter_rows()}
    covered = pl.read_parquet(finished.folder.decisions / "_objects" / "covered.parquet")
    assert set(covered["uid"]) == kept and covered["place"].to_list() == list(range(1, COUNT + 1))
    sizes = dict(vectors["uid"].value_counts().iter_rows())
    assert covered["objects"].to_list() == [sizes.get(uid, 0) for uid in covered["uid"]]


def test_explain_names_the_place_and_the_report_shows_crops(place, finished):
    covered = pl.read_parquet(finished.folder.decisions / "_objects" / "covered.parquet")
    for at in (0, 4, COUNT - 1):
        flip = explain(finished.folder.path, covered["uid"][at])["flip"]
        assert flip["kept"] is False and flip["count"] == at
    page = (finished.folder.report / "report.html").read_text()
    panel = page[page.index('<section id="objects"') :]
    panel = panel[: panel.index("</section>")]
    facts = json.loads((finished.folder.decisions / "_done.json").read_text())["facts"]["objects"]
    assert panel.count("data:image/webp") == len(facts["examples"]) > 3
    assert panel.count('class="open" data-uid=') == len(facts["examples"])
    assert "uncovered" in panel


# --- what must not change them ----------------------------------------------------------------------------------


def test_they_do_not_depend_on_how_rows_are_stored(place, finished, tmp_path):
    order = np.random.default_rng(1).permutation(N)
    glob = write_boxed(tmp_path / "data", N, more=MORE, captions=True, shards=3, order=order)
    other = made(glob, tmp_path / "run")
    for family in ("objects", "tmars"):
        assert table(other, family).equals(table(finished, family))
    assert decisions_digest(other.folder.path) == decisions_digest(finished.folder.path)


def test_parts_that_are_there_stay_when_others_come(place, tmp_path, monkeypatch):
    from curate.embedding import region_pool

    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copytree(place / "run", tmp_path / "run")
    glob = str(tmp_path / "data" / "*.parquet")
    changed = values(glob, tmp_path / "run", select={"method": "objects", "count": 3})
    before = times(tmp_path / "run" / "3_scores" / "objects")
    more = pl.read_parquet(min((tmp_path / "data").glob("*.parquet"))).head(4)
    more.with_columns(id="new" + pl.col("id"), caption=pl.lit("new")).write_parquet(
        tmp_path / "data" / "9.parquet"
    )
    asked = []
    real = region_pool.pack
    monkeypatch.setattr(region_pool, "pack", lambda *given: asked.append(1) or real(*given))
    run(parse_recipe(changed), until="select", force=True)
    after = times(tmp_path / "run" / "3_scores" / "objects")
    kept = [name for name in before if name.endswith(".parquet")]
    assert kept and all(before[name] == after[name] for name in kept)
    assert len([name for name in after if name.endswith(".parquet")]) == len(kept) + 2
    assert 0 < len(asked) <= 2 * 4
    assert table(open_run(tmp_path / "run"), "objects").height == N + 4


def test_a_run_that_was_ended_goes_on_with_the_next_part(place, finished, tmp_path, monkeypatch):
    from curate.embedding import region_pool

    shutil.copytree(place / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "3_scores" / "objects")
    asked, real, most = [], region_pool.pack, [10**6]

    def pack(*given):
        asked.append(1)
        if len(asked) > most[0]:
            raise RunError("ended")
        return real(*given)

    monkeypatch.setattr(region_pool, "pack", pack)
    pictured = table(finished, "objects").filter(pl.col("objects_count") > 0)["uid"]
    half = int((pictured <= "s014").sum())  # two shards of 15 rows; the parts are worked on in order
    most[0] = half
    glob = str(place / "data" / "*.parquet")
    with pytest.raises(RunError, match="ended"):
        made(glob, tmp_path / "run", until="score")
    most[0] = 10**6
    asked.clear()
    again = made(glob, tmp_path / "run", until="score")
    assert len(asked) == len(pictured) - half
    assert table(again, "objects").equals(table(finished, "objects"))


# --- errors and edges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score": [{"objects": {"column": "boxes"}}]}, r"score: objects.column: .*0.parquet has no column 'boxes'; there are id"),
        ({"score": [{"tmars": {"boxes": "txt"}}], "select": {"method": "random", "keep": 0.5}}, r"score: tmars.boxes: .* has no column 'txt'"),
        ({"score": ["clip_score"]}, "select.method objects: no score 'objects_count'; add objects to score"),
        ({"embed": {"column": "v"}, "score": ["objects"]}, "embeds parts of pictures with the model of the run, and embed takes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_any_work(place, tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        made(str(place / "data" / "*.parquet"), tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "1_embeddings").exists()


def parts_of(shard, n):
    return Part("p", 0, shard, Columns(), 0, n, 0, "f")


def test_coco_has_boxes_by_itself(tmp_path):
    path = write_coco(tmp_path / "coco", 6)
    (shard,) = json_file.find(path)
    _, objects = pictures(6)
    found = list(boxes_in(parts_of(shard, 6), "annotations", "coco"))
    assert [one.category for one in found] == [[name for name, *_ in one] for one in objects]
    assert [one.boxes.tolist() for one in found] == [
        [[x, y, x + w, y + h] for _, x, y, w, h in one] for one in objects
    ]


LABEL = {"_type": "ClassLabel", "names": ["car", "bus"]}


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ({"_type": "Sequence", "feature": {"bbox": {}, "category": LABEL}}, ["bus", "car", "7"]),
        ({"bbox": {}, "category": {"_type": "List", "feature": LABEL}}, ["bus", "car", "7"]),
        ([{"bbox": {}, "category": LABEL}], ["bus", "car", "7"]),
        ({"_type": "Sequence", "feature": {"bbox": {}}}, ["1", "0", "7"]),
    ],
    ids=str,
)
def test_classes_have_the_names_that_hugging_face_declares(tmp_path, features, names):
    cells = [{"bbox": [[0.0, 0, 1, 1]] * 3, "category": [1, 0, 7]}]
    table = pa.table({"objects": cells}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"objects": features}}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (shard,) = parquet.find(str(tmp_path / "a.parquet"))
    assert next(boxes_in(parts_of(shard, 1), "objects", "coco")).category == names


def test_tars_have_boxes_in_their_json(tmp_path):
    import tarfile

    files, objects = pictures(3)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for row, data in enumerate(files):
            note = json.dumps(
                {"found": {"objects": [{"bbox": one[1:], "label": one[0]} for one in objects[row]]}}
            )
            for end, content in (("png", data), ("json", note.encode())):
                info = tarfile.TarInfo(f"{row}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (shard,) = webdataset.find(str(tmp_path / "a.tar"))
    found = list(boxes_in(parts_of(shard, 3), "json.found.objects", "coco"))
    assert [one.category for one in found] == [[name for name, *_ in one] for one in objects]
    assert list(boxes_in(parts_of(shard, 3), "nothing", "coco")) == [None] * 3


def test_a_frame_of_pictures_is_filtered_by_its_objects(rows, tmp_path):
    found = curate.filter(
        rows.head(12),
        out=tmp_path / "run",
        method="objects",
        count=4,
        model="tiny",
        workers=1,
        uids="id",
        progress=False,
    )
    assert len(found.kept()) == 4
    assert "objects_count" in found.scores().columns


@pytest.mark.parametrize("name", ["objects", "tmars"])
def test_the_recipes_that_ship(rows, tmp_path, name):
    """With the small model, on a made set that has the columns they name."""
    edges = pl.element().struct.field("bbox")
    corners = pl.concat_list(
        edges.list.get(0), edges.list.get(1), *(edges.list.get(a) + edges.list.get(a + 2) for a in (0, 1))
    )
    text = pl.col("objects").list.eval(corners, parallel=False)
    known = rows.filter(~pl.col("id").is_in(["s002", "s003"])).with_columns(text_boxes=text)
    known.write_parquet(tmp_path / "a.parquet")
    recipe = Path(__file__).parents[2] / "data" / "recipes" / f"{name}.yaml"
    changes = {
        "source.path": str(tmp_path / "a.parquet"), "source.uid": "id", "embed.model": "tiny", "embed.pretrained": None,
        "memory": "2GB", "workers": 1, "cluster.concepts": 3,
    }  # fmt: skip
    run(load_recipe(recipe, settings={**changes, "run": str(tmp_path / "run")}), until="select")
    decisions, scores = open_run(tmp_path / "run").decisions(), open_run(tmp_path / "run").scores()
    if name == "objects":
        assert decisions["keep"].sum() == round(0.2 * len(known))
        return
    assert (scores["tmars_boxes"] > 0).sum() > 10
    want = set(known["id"])
    for column, share in (("tmars_score", 0.5), ("clip_score", 0.3)):
        ranked = scores.filter(pl.col(column).is_not_null()).sort(column, descending=True)
        want &= set(ranked.head(round(share * len(ranked)))["uid"])
    assert want and set(decisions.filter("keep")["uid"]) == want
