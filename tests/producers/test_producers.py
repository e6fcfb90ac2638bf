"""What libraries write is read right, each way in: rows, captions, labels and pixels are those of truth.py."""

import gc
import io
import json
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate
from curate.api.data import given_data
from curate.pipeline.stages import read, read_task
from curate.recipe.loading import parse_recipe
from tests.fixtures.calls import curate as command
from tests.producers import truth
from tests.producers.make import MADE_BY_TESTS, PRODUCERS

pytestmark = pytest.mark.usefixtures("no_flush", "decoding_here")
MADE = Path(__file__).with_name("made")
LABELS = dict(enumerate(truth.LABELS))
CODES = {number: str(truth.CLASSES.index(label)) for number, label in LABELS.items()}
NONE = dict.fromkeys(range(truth.N))
SAID = dict(enumerate(truth.CAPTIONS))
AGAIN = {number: (text, f"again: {text}") for number, text in SAID.items()}
SPOKEN = tuple(number for number, text in SAID.items() if text) * 2
BY_PIXELS = {truth.pixels(number).tobytes(): number for number in range(truth.MISSING)}


@dataclass(frozen=True)
class Way:
    """A way into a data set: its path below the folder, settings of the source, and what the rows then are.

    captions, labels : what they must be, by number; of several captions, any.
    missing : the outcome of the row without an image; None where the form has no such row.
    rows : the numbers of all rows, where they are not once each.
    where, kept : a condition on a column, and the numbers that it keeps.
    exact : False where images were stored anew with loss.
    """

    producer: str
    path: str = ""
    source: dict = field(default_factory=dict)
    captions: dict = field(default_factory=lambda: SAID)
    labels: dict = field(default_factory=lambda: LABELS)
    missing: str | None = "missing_image"
    rows: tuple[int, ...] = ()
    where: str = "score >= 0.5"
    kept: tuple[int, ...] = truth.ABOVE_HALF
    exact: bool = True

    @property
    def name(self):
        return f"{self.producer}/{self.path}"


IN_TAR = {"where": """json like '%"year": 2023%'""", "kept": (0, 2, 4, 6, 8)}
ALL = {"where": "width >= 16", "kept": tuple(range(truth.MISSING))}
WAYS = [
    Way("datasets_saved", labels=CODES),
    Way("datasets_saved", "data-*.arrow", labels=CODES),
    Way("datasets_splits", labels=CODES),
    Way("datasets_parquet", labels=CODES),
    Way("datasets_parquet", "*.parquet", labels=CODES),
    Way("datasets_imagefolder", missing=None),
    Way("datasets_imagefolder", "metadata.csv", {"image": "file_name"}, missing=None),
    Way("datasets_imagefolder_jsonl", missing=None),
    Way("datasets_json", "train.jsonl", labels=CODES),
    Way("pandas_parquet"),
    Way("pandas_parquet", "rows.parquet"),
    Way("pandas2_parquet", "*.parquet"),
    Way("pandas_csv", "rows.csv"),
    Way("pandas_csv", "*.csv"),
    Way("pandas_csv", "", {"format": "csv"}),
    Way("pandas_jsonl", "rows.jsonl"),
    Way("pandas_json", "rows.json"),
    Way("duckdb_parquet"),
    Way("duckdb_hive"),
    Way("duckdb_hive", "year=*/*/*.parquet"),
    Way("duckdb_csv", "rows.csv"),
    Way("duckdb_json", "rows.json"),
    Way("polars_parquet"),
    Way("polars_ipc"),
    Way("polars_ipc", "*.arrow"),
    Way("polars_partitioned"),
    Way("polars_ndjson", "rows.ndjson"),
    Way("pyarrow_dataset"),
    Way("pyarrow_dataset", "year=*/*.parquet"),
    Way("pyarrow_orc"),
    Way("delta"),
    Way("iceberg"),
    Way("img2dataset_tars", missing="failed_download", **IN_TAR),
    Way("img2dataset_tars", "*.tar", {"format": "webdataset"}, missing=None, **IN_TAR),
    Way("img2dataset_files", missing="failed_download", exact=False),
    Way("img2dataset_parquet", missing="failed_download"),
    Way("img2dataset_parquet", "*.parquet"),
    Way("webdataset_old", labels=CODES, **IN_TAR),
    Way("webdataset_new", labels=CODES, **IN_TAR),
    Way("webdataset_new", "train-{000000..000001}.tar", labels=CODES, **IN_TAR),
    Way("torchvision_tree", captions=NONE, missing=None, **ALL),
    # Each folder is one of its own, whose sub-folders would be labels.
    Way("torchvision_tree", "*", captions=NONE, labels=NONE, missing=None, **ALL),
    Way("coco", "annotations/captions_val2017.json", captions=AGAIN, labels=NONE, rows=SPOKEN, **ALL),
    Way("coco", "annotations/instances_val2017.json", captions=NONE, **ALL),
    Way("kaggle", "train.csv", {"image": "id", "template": "train/{}.png"}),
    Way("open_clip", "train.csv", labels=NONE),
]  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return the folder of a data set; what names the place where it lies is made here."""
    here = {}

    def folder(name):
        if name not in MADE_BY_TESTS:
            return MADE / name
        if name not in here:
            pytest.importorskip("sqlalchemy", reason="pyiceberg writes a table with its SQL catalog")
            for library in PRODUCERS[name].libraries:
                pytest.importorskip(library)
            made = tmp_path_factory.mktemp(name)
            PRODUCERS[name].make(made)
            # beside the catalog, as the folder of a warehouse has it
            here[name] = next(made.rglob("metadata")).parent
        return here[name]

    return folder


def recipe_of(way, place):
    path = place(way.producer) / way.path
    source = {"path": str(path), **way.source}
    return parse_recipe(
        {"run": "unused", "source": source, "embed": {"model": "tiny"}, "select": {"keep": 1.0}}
    )


def rows_of(recipe, folder):
    """Return the rows as lists of (row's number by its pixels or None, image, caption, label, outcome, reason)."""
    parts, bad = read.find_parts(recipe, folder / "known.json")
    assert bad == []
    return [
        one
        for part in parts
        for rows, _ in read_task.read_batches(part, recipe.source[0], batch_bytes=1 << 20, images=True)
        for one in zip(rows.image, rows.caption, rows.label, rows.outcome, rows.reason, strict=True)
    ]


def number_of(image, exact):
    """Return which image of the truth these bytes are."""
    found = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    if exact:
        return BY_PIXELS[found.tobytes()]
    away = [np.abs(truth.pixels(number).astype(int) - found).mean() for number in range(truth.MISSING)]
    assert min(away) < 12
    return int(np.argmin(away))


def expected(way):
    return sorted(way.rows or range(truth.N if way.missing else truth.MISSING))


def check_caption(way, number, found):
    wanted = way.captions[number]
    assert found in wanted if isinstance(wanted, tuple) else (found or None) == (wanted or None)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_rows_are_those_that_were_given(way, place, tmp_path):
    seen = []
    for image, caption, label, outcome, reason in rows_of(recipe_of(way, place), tmp_path):
        if outcome == "ok":
            number = number_of(image, way.exact)
            assert label == way.labels[number]
        else:
            number = truth.MISSING
            assert outcome == way.missing and reason
        check_caption(way, number, caption)
        seen.append(number)
    assert sorted(seen) == expected(way)


def test_vectors_of_clip_retrieval_are_those_of_their_rows(place, tmp_path):
    embed = {"column": "img_emb", "text_column": "text_emb"}
    source = {"path": str(place("clip_retrieval"))}
    recipe = parse_recipe({"run": "unused", "source": source, "embed": embed, "select": {"keep": 1.0}})
    parts, bad = read.find_parts(recipe, tmp_path / "known.json")
    assert bad == []
    batches = [
        rows
        for part in parts
        for rows, _ in read_task.read_batches(part, recipe.source[0], batch_bytes=1 << 20, images=True)
    ]
    assert [key for rows in batches for key in rows.key] == [f"{one}.png" for one in truth.IDS]
    assert [text or None for rows in batches for text in rows.caption] == [
        text or None for text in truth.CAPTIONS
    ]
    assert [label for rows in batches for label in rows.label] == truth.LABELS
    for seed, name in enumerate(("vector", "text_vector")):
        found = np.concatenate([getattr(rows, name) for rows in batches])
        np.testing.assert_array_equal(found, truth.vectors(seed).astype(np.float32))


def saved_dataset(folder):
    return pytest.importorskip("datasets").load_from_disk(folder("datasets_saved"))


def imagefolder(folder):
    datasets = pytest.importorskip("datasets")
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(
            "imagefolder",
            data_dir=str(folder("datasets_imagefolder")),
            split="train",
            cache_dir=cache,
            keep_in_memory=True,
        )
    with (
        warnings.catch_warnings()
    ):  # it leaves metadata.csv open in a cycle, which any later test would be blamed for
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return loaded


def delta_table(folder):
    return pytest.importorskip("deltalake").DeltaTable(str(folder("delta"))).to_pyarrow_table()


def iceberg_scan(folder):
    from pyiceberg.table import StaticTable

    (newest,) = sorted((folder("iceberg") / "metadata").glob("*.metadata.json"))[-1:]
    return StaticTable.from_metadata(str(newest)).scan().to_arrow()


def pandas_frame(folder):
    return pytest.importorskip("pandas").read_parquet(folder("pandas_parquet"))


def from_duckdb(shape):
    """Return what asks DuckDB for all rows, as a relation or as one of the shapes that it gives."""

    def found(folder):
        duckdb = pytest.importorskip("duckdb")
        rows = duckdb.sql(f"select * from '{folder('duckdb_parquet')}/*.parquet'")
        return rows if shape is None else getattr(rows, shape)()

    return found


#: How people load what a producer wrote, and the ClassLabel codes that stand for its labels.
OBJECTS = {
    "datasets": (saved_dataset, CODES),
    "imagefolder": (imagefolder, LABELS),
    "pandas": (pandas_frame, LABELS),
    "polars": (lambda folder: pl.read_ipc(folder("polars_ipc") / "rows.arrow"), LABELS),
    "polars lazy": (lambda folder: pl.scan_parquet(folder("polars_partitioned")), LABELS),
    "duckdb relation": (from_duckdb(None), LABELS),
    "duckdb arrow": (from_duckdb("arrow"), LABELS),
    "duckdb pandas": (from_duckdb("df"), LABELS),
    "delta": (delta_table, LABELS),
    "iceberg": (iceberg_scan, LABELS),
}


@pytest.mark.filterwarnings("ignore")  # of the libraries, about each other
@pytest.mark.parametrize("name", OBJECTS)
def test_what_libraries_load_is_the_same_rows(name, place, tmp_path):
    load, labels = OBJECTS[name]
    with given_data(load(place), str(tmp_path / "run"), {}) as given:
        # datasets leaves images where they are: their folder is named, as the error that would come says.
        source = given.settings["source"][0] | {"root": str(place("datasets_imagefolder"))}
        values = {"run": "unused", "embed": {"model": "tiny"}, "select": {"keep": 1.0}, "source": source}
        found = rows_of(parse_recipe(values), tmp_path)
    seen = [number_of(image, True) if outcome == "ok" else truth.MISSING for image, _, _, outcome, _ in found]
    assert sorted(seen) == list(range(truth.MISSING if name == "imagefolder" else truth.N))
    captions = SAID | ({6: None} if name == "imagefolder" else {})  # datasets reads "NA" in a CSV as nothing
    for number, (_, caption, label, _, _) in zip(seen, found, strict=True):
        assert (caption or None, label) == (captions[number] or None, labels[number])


#: Every producer once, each by one of its ways.
ONCE = list({way.producer: way for way in WAYS}.values())
SMALL = {"cluster.concepts": 2, "memory": "2GB", "limits.unusable": 0.2}


def filtered(way, place, out):
    """Run curate on a data set with a condition on its score, on the command line or in Python; return the run."""
    path = str(place(way.producer) / way.path)
    settings = {**SMALL, **{f"source.{name}": value for name, value in way.source.items()}}
    if ONCE.index(way) % 2:
        return curate.filter(
            path, out=out, where=way.where, model="tiny", workers=1, settings=settings, progress=False
        )
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    said = command(
        "filter", path, "--out", out, "--where", way.where, "--model", "tiny", "--workers", 1, *flags
    )
    assert said.code == 0, said.err
    assert "source: used" in said.err
    return curate.open_run(out)


#: Each way of asking, and files of each shape; the others in the long tests.
USUAL = ("datasets_saved", "duckdb_hive", "img2dataset_tars")


@pytest.mark.parametrize(
    "way",
    [way if way.producer in USUAL else pytest.param(way, marks=pytest.mark.long) for way in ONCE],
    ids=lambda way: way.name,
)
def test_a_run_keeps_what_a_condition_on_a_column_asks_for(way, place, tmp_path):
    run = filtered(way, place, tmp_path / "run")
    usable = [number for number in expected(way) if number != truth.MISSING]
    wanted = [number for number in usable if number in way.kept]
    reasons = {
        "kept": len(wanted),
        f"unusable:{way.missing}": len(expected(way)) - len(usable),
        f"filter:{way.where}": len(usable) - len(wanted),
    }
    found = dict(run.decisions()["reason"].value_counts().iter_rows())
    assert found == {reason: n for reason, n in reasons.items() if n}
    kept = pl.read_parquet(f"{run.path}/6_filtered/*.parquet")
    about = [json.loads(text) for text in kept["json"]] if "json" in kept.columns else kept.to_dicts()
    assert len(about) == len(wanted)
    if way.producer in ("torchvision_tree", "coco", "open_clip"):
        assert "id" not in about[0]
        return
    assert sorted(str(row["id"]).zfill(4) for row in about) == [truth.IDS[number] for number in wanted]
    for row in about:
        for name, given in (("score", truth.SCORES), ("count", truth.COUNTS), ("year", truth.YEARS)):
            assert (row[name] is None) == (given[int(row["id"])] is None)
            assert row[name] is None or float(row[name]) == given[int(row["id"])]
