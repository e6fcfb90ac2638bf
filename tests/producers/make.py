"""Make small data sets with the libraries that people make theirs with: what tests/producers/made holds.

    python tests/producers/make.py                      # all of them
    python tests/producers/make.py pandas_csv coco      # some

Libraries whose pins clash with ours get environments of their own, below --environments. Each data set has the rows of
truth.py, as far as its form can hold them; made/README.md says which version made it. Rows, names and values are the
same each time; times inside of files, and what a newer library writes otherwise, are not.
"""

import argparse
import contextlib
import functools
import http.server
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.producers import truth

#: What pip installs into an environment; `tests` is the one that this script was started in.
ENVIRONMENTS = {
    "tests": [],
    "pandas2": ["pandas==2.2.3", "numpy<2.3", "pyarrow", "pillow"],
    "img2dataset": ["img2dataset==1.47.0", "pillow"],
    # Its own pins (numpy<2, pyarrow<16, torch, ...) are for computing vectors; its writer needs none of them.
    "clip_retrieval": ["--no-deps", "clip-retrieval==2.45.0", "pandas==2.2.3", "numpy<2.3", "pyarrow", "fsspec", "pillow",
                       "python-dateutil", "pytz", "tzdata", "six"],
    "webdataset": ["webdataset==1.0.2", "numpy", "pillow"],
    "pycocotools": ["pycocotools", "pillow"],
}  # fmt: skip
#: The addresses of images that img2dataset downloaded stand in its tables, so the port is always the same.
PORT = 48123


@dataclass(frozen=True)
class Producer:
    """What makes one data set: a function of the folder to fill, the libraries it uses, and where they are."""

    make: Callable[[Path], None]
    libraries: tuple[str, ...]
    environment: str

    @property
    def what(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").splitlines()[0]


PRODUCERS: dict[str, Producer] = {}


def producer(*libraries: str, environment: str = "tests"):
    """Register a function under its name."""

    def register(make):
        PRODUCERS[make.__name__] = Producer(make, libraries, environment)
        return make

    return register


def write_images(folder: Path, name: Callable[[int], str] = "{:04d}.png".format) -> list[str]:
    """Write the images that are there; return the names of all, the missing one's too."""
    for number, data in enumerate(truth.images()):
        if data is not None:
            path = folder / name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return [name(number) for number in range(truth.N)]


# --- datasets -----------------------------------------------------------------------------------------------------


def dataset(**more):
    """Return the rows as a Hugging Face data set with an image column and named classes."""
    import datasets

    datasets.disable_progress_bars()
    values = {**truth.columns(), "label": [truth.CLASSES.index(one) for one in truth.LABELS], **more}
    pictures = [None if data is None else {"bytes": data, "path": None} for data in truth.images()]
    kinds = {"score": "float64", "count": "int64", "year": "int64"}
    features = {
        "image": datasets.Image(),
        **{name: datasets.Value(kinds.get(name, "string")) for name in values},
        "label": datasets.ClassLabel(names=list(truth.CLASSES)),
    }
    for name in more:
        features[name] = datasets.List(datasets.Value("string"))
    return datasets.Dataset.from_dict({"image": pictures, **values}, features=datasets.Features(features))


@producer("datasets")
def datasets_saved(folder):
    """`save_to_disk` in two shards, with several captions a row in a list."""
    lists = [[text, f"again: {text}"] if text else [] for text in truth.CAPTIONS]
    dataset(caption=lists).save_to_disk(folder, num_shards=2)
    remove_times(folder / "state.json")


def remove_times(path):
    """Take out what is another in each making."""
    state = json.loads(path.read_text())
    state["_fingerprint"] = "0" * 16
    path.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")


@producer("datasets")
def datasets_parquet(folder):
    """`to_parquet`: images as structs, labels as ClassLabel."""
    dataset().to_parquet(folder / "train-00000-of-00001.parquet")


@producer("datasets")
def datasets_splits(folder):
    """A `DatasetDict` saved to disk: a folder per split."""
    import datasets

    whole = dataset()
    parts = {"train": whole.select(range(6)), "test": whole.select(range(6, truth.N))}
    datasets.DatasetDict(parts).save_to_disk(folder)
    for name in parts:
        remove_times(folder / name / "state.json")


@producer("datasets", "pandas")
def datasets_imagefolder(folder):
    """The layout of `imagefolder` with metadata.csv, read back by `load_dataset`."""
    import datasets
    import pandas

    names = write_images(folder)
    rows = pandas.DataFrame({"file_name": names, **truth.columns()}).head(truth.MISSING)
    rows.to_csv(folder / "metadata.csv", index=False)
    with tempfile.TemporaryDirectory() as cache:
        back = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
        assert back.num_rows == truth.MISSING and back["image"][0].size == (16, 16)


@producer("datasets", "pandas")
def datasets_imagefolder_jsonl(folder):
    """The layout of `imagefolder` with metadata.jsonl and folders for splits."""
    import datasets
    import pandas

    frame = pandas.DataFrame(truth.columns())
    for split, rows in (("train", range(6)), ("test", range(6, truth.MISSING))):
        (folder / split).mkdir()
        for number in rows:
            (folder / split / f"{number:04d}.png").write_bytes(truth.png(number))
        part = frame.iloc[list(rows)].assign(file_name=[f"{number:04d}.png" for number in rows])
        part.to_json(folder / split / "metadata.jsonl", orient="records", lines=True)
    with tempfile.TemporaryDirectory() as cache:
        back = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=cache)
        assert {name: part.num_rows for name, part in back.items()} == {"train": 6, "test": 3}


@producer("datasets")
def datasets_json(folder):
    """`to_json`: lines with the paths of images."""
    write_images(folder / "images")
    paths = [f"images/{number:04d}.png" for number in range(truth.N)]
    dataset().remove_columns("image").add_column("image", paths).to_json(folder / "train.jsonl")


# --- frames and databases ------------------------------------------------------------------------------------------


def frame(**more):
    import pandas

    return pandas.DataFrame({**truth.columns(), **more})


def pandas_table(folder):
    """Write a frame with an index, a category and times; the null makes floats of its whole numbers."""
    import pandas

    rows = frame(image=truth.images(), seen=pandas.date_range("2024-02-28", periods=truth.N, tz="UTC"))
    rows["label"] = rows["label"].astype("category")
    rows.index = pandas.Index([100 + number for number in range(truth.N)], name="index")
    rows.to_parquet(folder / "rows.parquet")


@producer("pandas", "pyarrow")
def pandas_parquet(folder):
    """`to_parquet` of a frame with an index, a category, times and whole numbers with a null."""
    pandas_table(folder)


@producer("pandas", "pyarrow", environment="pandas2")
def pandas2_parquet(folder):
    """The same with pandas 2, whose text columns are objects."""
    pandas_table(folder)


@producer("pandas")
def pandas_csv(folder):
    """`to_csv` with the paths of images."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_csv(folder / "rows.csv", index=False)


@producer("pandas")
def pandas_jsonl(folder):
    r"""`to_json(orient="records", lines=True)`, which writes `\/` and escapes everything beyond ASCII."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_json(folder / "rows.jsonl", orient="records", lines=True)


@producer("pandas")
def pandas_json(folder):
    """`to_json(orient="records")`: one list of objects."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_json(folder / "rows.json", orient="records", indent=1)


def duck():
    """Return a DuckDB with a table `rows`; labels are an enumeration."""
    import duckdb

    database = duckdb.connect()
    classes = ", ".join(f"'{name}'" for name in truth.CLASSES)
    database.execute(f"create type kind as enum ({classes})")
    database.execute(
        "create table rows (image blob, id text, caption text, label kind, score double, count bigint, year int)"
    )
    values = list(zip(truth.images(), *truth.columns().values(), strict=True))
    database.executemany("insert into rows values (?, ?, ?, ?, ?, ?, ?)", values)
    return database


@producer("duckdb")
def duckdb_parquet(folder):
    """`COPY ... TO`, Parquet with an enumeration."""
    with duck() as database:
        database.execute(f"copy rows to '{folder}/rows.parquet' (format parquet, compression zstd)")


@producer("duckdb")
def duckdb_hive(folder):
    """`COPY ... TO`, partitioned by year and by label: the values stand in the names of folders."""
    with duck() as database:
        database.execute(
            f"copy rows to '{folder}' (format parquet, partition_by (year, label), overwrite_or_ignore)"
        )


@producer("duckdb")
def duckdb_csv(folder):
    """`COPY ... TO`, CSV: text that is empty is quoted, nothing is not."""
    names = write_images(folder, "images/{:04d}.png".format)
    with duck() as database:
        database.execute("create table files as select * replace (null::text as image) from rows")
        database.executemany(
            "update files set image = ? where id = ?", list(zip(names, truth.IDS, strict=True))
        )
        database.execute(f"copy (from files order by id) to '{folder}/rows.csv' (header)")


@producer("duckdb")
def duckdb_json(folder):
    """`COPY ... TO`, JSON lines in a file named .json."""
    names = write_images(folder, "images/{:04d}.png".format)
    with duck() as database:
        database.execute("create table files as select * replace (null::text as image) from rows")
        database.executemany(
            "update files set image = ? where id = ?", list(zip(names, truth.IDS, strict=True))
        )
        database.execute(f"copy (from files order by id) to '{folder}/rows.json'")


def polars_frame():
    import polars

    pictures = [{"bytes": data, "path": None if data is None else f"{number:04d}.png"}
                for number, data in enumerate(truth.images())]  # fmt: skip
    rows = polars.DataFrame({"image": pictures, **truth.columns()})
    return rows.with_columns(polars.col("label").cast(polars.Categorical))


@producer("polars")
def polars_parquet(folder):
    """`write_parquet`, with a category and images as structs."""
    polars_frame().write_parquet(folder / "rows.parquet", row_group_size=4)


@producer("polars")
def polars_ipc(folder):
    """`write_ipc` as it does by default: text and bytes as views."""
    polars_frame().write_ipc(folder / "rows.arrow", compression="zstd")


@producer("polars")
def polars_partitioned(folder):
    """`write_parquet` partitioned by year."""
    polars_frame().write_parquet(folder, partition_by="year")


@producer("polars")
def polars_ndjson(folder):
    """`write_ndjson` with the paths of images."""
    import polars

    names = write_images(folder, "images/{:04d}.png".format)
    polars.DataFrame({"image": names, **truth.columns()}).write_ndjson(folder / "rows.ndjson")


def arrow_table():
    import pyarrow as pa

    return pa.table({"image": pa.array(truth.images(), pa.binary()), **truth.columns()})


@producer("pyarrow")
def pyarrow_dataset(folder):
    """`write_dataset` with Hive folders by year, and a second file for later rows."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    by = ds.partitioning(pa.schema([("year", pa.int64())]), flavor="hive")
    for place, rows in enumerate((arrow_table().slice(0, 6), arrow_table().slice(6))):
        ds.write_dataset(rows, folder, format="parquet", partitioning=by, basename_template=f"part-{place}-{{i}}.parquet",
                         existing_data_behavior="overwrite_or_ignore")  # fmt: skip


@producer("pyarrow")
def pyarrow_orc(folder):
    """`orc.write_table`."""
    import pyarrow.orc

    pyarrow.orc.write_table(arrow_table(), folder / "rows.orc")


# --- tables that are more than their files -------------------------------------------------------------------------


@producer("deltalake")
def delta(folder):
    """A Delta table in two versions with rows deleted and rows changed since: their old files are still there."""
    import deltalake
    import pyarrow as pa

    later = arrow_table()
    wrong = later.slice(0, 6).set_column(2, "caption", pa.array(["out of date"] * 6, pa.string()))
    ghosts = later.slice(0, 2).set_column(1, "id", pa.array(["ghost1", "ghost2"]))
    deltalake.write_deltalake(str(folder), pa.concat_tables([wrong, ghosts]))
    table = deltalake.DeltaTable(str(folder))
    table.delete("id like 'ghost%'")
    table.delete("caption = 'out of date'")
    deltalake.write_deltalake(str(folder), later, mode="append")


@producer("pyiceberg")
def iceberg(folder):
    """An Iceberg table with rows deleted since."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    rows = arrow_table()
    table = catalog.create_table("n.rows", rows.schema)
    ghosts = rows.slice(0, 2).set_column(1, "id", pa.array(["ghost1", "ghost2"]))
    table.append(pa.concat_tables([rows, ghosts]))
    table.delete("id == 'ghost1' or id == 'ghost2'")
    catalog.close()


#: Their files name the place where they lie, so they cannot be kept: tests make them anew.
MADE_BY_TESTS = ("iceberg",)


# --- images with text beside them ----------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *arguments):
        """Say nothing."""


def download(folder, **how):
    """Let img2dataset download the images from a server here; the last one is not there."""
    import img2dataset
    import pandas

    with tempfile.TemporaryDirectory() as web:
        names = write_images(Path(web))
        urls = [f"http://127.0.0.1:{PORT}/{name}" for name in names]
        pandas.DataFrame({"url": urls, **truth.columns()}).to_parquet(f"{web}/list.parquet")
        handler = functools.partial(Quiet, directory=web)
        http.server.ThreadingHTTPServer.allow_reuse_address = True
        with http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            img2dataset.download(
                url_list=f"{web}/list.parquet", input_format="parquet", caption_col="caption", output_folder=str(folder),
                save_additional_columns=["id", "label", "score", "count", "year"], thread_count=4, processes_count=1,
                number_sample_per_shard=6, enable_wandb=False, **how,
            )  # fmt: skip
            server.shutdown()
    shutil.rmtree(folder / "_tmp", ignore_errors=True)


@producer("img2dataset", "webdataset", environment="img2dataset")
def img2dataset_tars(folder):
    """Tars of images stored as PNG, two shards; one download failed."""
    download(folder, output_format="webdataset", encode_format="png", encode_quality=9, image_size=16,
             resize_mode="no")  # fmt: skip


@producer("img2dataset", environment="img2dataset")
def img2dataset_files(folder):
    """Files with text and JSON beside, images stored as JPEG."""
    download(folder, output_format="files", image_size=16, resize_mode="keep_ratio")


@producer("img2dataset", environment="img2dataset")
def img2dataset_parquet(folder):
    """Parquet with the bytes as they were downloaded."""
    download(folder, output_format="parquet", disable_all_reencoding=True)


@producer("webdataset")
def webdataset_old(folder):
    """`ShardWriter` of webdataset 0.2: image, text, class and JSON; one sample has no image."""
    shard_writer(folder)


@producer("webdataset", environment="webdataset")
def webdataset_new(folder):
    """The same with webdataset 1."""
    shard_writer(folder)


def shard_writer(folder):
    import webdataset

    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=6, mtime=0, verbose=0) as sink:
        for number, data in enumerate(truth.images()):
            about = {name: values[number] for name, values in truth.columns().items() if name != "caption"}
            sample = {
                "__key__": truth.IDS[number],
                "cls": truth.CLASSES.index(truth.LABELS[number]),
                "json": about,
            }
            if truth.CAPTIONS[number] is not None:
                sample["txt"] = truth.CAPTIONS[number]
            if data is not None:
                sample["png"] = data
            sink.write(sample)


@producer("clip-retrieval", environment="clip_retrieval")
def clip_retrieval(folder):
    """The vectors and metadata of `clip-retrieval inference`, by its writer; the vectors are not those of a CLIP."""
    found = importlib.util.find_spec("clip_retrieval")
    path = Path(found.submodule_search_locations[0]) / "clip_inference" / "writer.py"
    spec = importlib.util.spec_from_file_location("writer", path)  # its package imports a server and torch
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    image, text = truth.vectors(0), truth.vectors(1)
    for partition, rows in enumerate((slice(0, 6), slice(6, truth.N))):
        sink = writer.NumpyWriter(partition, str(folder), True, True, True, 12)
        about = zip(
            *(truth.columns()[name][rows] for name in ("id", "label", "score", "count", "year")), strict=True
        )
        sink({
            "image_embs": image[rows], "text_embs": text[rows], "text": [text or "" for text in truth.CAPTIONS[rows]],
            "image_filename": [f"{one}.png" for one in truth.IDS[rows]],
            "metadata": [json.dumps(dict(zip(("id", "label", "score", "count", "year"), one, strict=True))) for one in about],
        })  # fmt: skip
        sink.flush()


@producer("torchvision")
def torchvision_tree(folder):
    """A folder per class, read back by `torchvision.datasets.ImageFolder`."""
    from curate.embedding.torchvision_guard import import_open_clip

    write_images(folder, lambda number: f"{truth.LABELS[number]}/{number:04d}.png")
    import_open_clip()  # a torchvision for GPUs does not import by itself
    from torchvision.datasets import ImageFolder

    back = ImageFolder(folder)
    assert back.classes == sorted(truth.CLASSES) and len(back) == truth.MISSING


@producer("pycocotools", environment="pycocotools")
def coco(folder):
    """Captions and instances of one split, two captions an image, read back by pycocotools."""
    from pycocotools.coco import COCO

    write_images(folder / "val2017", "{:012d}.png".format)
    images = [
        {"id": number, "file_name": f"{number:012d}.png", "width": 16, "height": 16}
        for number in range(truth.N)
    ]
    captions = [(number, text) for number, text in enumerate(truth.CAPTIONS) if text]
    spoken = [
        {"id": 1000 + place, "image_id": number, "caption": text}
        for place, (number, text) in enumerate(captions)
    ]
    spoken += [{"id": 2000 + place, "image_id": number, "caption": f"again: {text}"}
               for place, (number, text) in enumerate(captions)]  # fmt: skip
    boxes = [{"id": number, "image_id": number, "category_id": truth.CLASSES.index(label) + 1, "bbox": [1, 2, 8, 8],
              "area": 64, "iscrowd": 0, "segmentation": []} for number, label in enumerate(truth.LABELS)]  # fmt: skip
    kinds = [
        {"id": place + 1, "name": name, "supercategory": "thing"} for place, name in enumerate(truth.CLASSES)
    ]
    (folder / "annotations").mkdir()
    about = {"info": {"year": 2017}, "licenses": [], "images": images}
    for name, more in (
        ("captions", {"annotations": spoken}),
        ("instances", {"annotations": boxes, "categories": kinds}),
    ):
        path = folder / "annotations" / f"{name}_val2017.json"
        path.write_text(json.dumps({**about, **more}))
        with contextlib.redirect_stdout(None):
            back = COCO(str(path))
        assert len(back.getImgIds()) == truth.N and len(back.getAnnIds()) == len(more["annotations"])


@producer("pandas")
def kaggle(folder):
    """A competition: train.csv of bare ids and classes, images in train/."""
    write_images(folder / "train")
    frame().to_csv(folder / "train.csv", index=False)


@producer("pandas", "open_clip_torch")
def open_clip(folder):
    """`filepath` and `title` with tabs, read back by the class that open_clip trains on."""
    import pandas

    from curate.embedding.torchvision_guard import import_open_clip

    names = write_images(folder, "images/{:04d}.png".format)
    path = folder / "train.csv"
    pandas.DataFrame({"filepath": names, "title": truth.CAPTIONS, "score": truth.SCORES}).to_csv(
        path, sep="\t", index=False
    )
    import_open_clip()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from open_clip_train.data import CsvDataset
    assert len(CsvDataset(str(path), None, "filepath", "title")) == truth.N


# --- all of them -----------------------------------------------------------------------------------------------------


def python_of(environment: str, folder: Path) -> str:
    """Return the interpreter of an environment, which is made where it is not there."""
    if environment == "tests":
        return sys.executable
    home = folder / environment
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[environment]], check=True
        )
        (home / ".ready").touch()
    return str(python)


def make_here(name: str, out: Path) -> str:
    """Make one data set with the libraries of this interpreter; return which they are."""
    made = PRODUCERS[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made.make(folder)
    return ", ".join(f"{library} {version(library)}" for library in made.libraries)


def write_versions(out: Path, told: Path, versions: dict[str, str]) -> None:
    """Write which libraries made what, for the next call and as a page."""
    told.write_text(json.dumps(versions, indent=1) + "\n")
    lines = [
        f"| `{name}` | {versions[name]} | {PRODUCERS[name].what} |" for name in PRODUCERS if name in versions
    ]
    head = "| folder | made by | what |\n|---|---|---|\n"
    intro = "Made by `python tests/producers/make.py`, with the rows of `truth.py`."
    (out / "README.md").write_text(f"{intro}\n\n{head}" + "\n".join(lines) + "\n")


def main():
    """Make the data sets that are asked for, each in its environment, and say what made them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "made")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "producers")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        (name,) = given.names
        print("made by:", make_here(name, given.out))
        return
    told = given.out / "versions.json"
    versions = json.loads(told.read_text()) if told.exists() else {}
    for name in given.names or [name for name in PRODUCERS if name not in MADE_BY_TESTS]:
        python = python_of(PRODUCERS[name].environment, given.environments)
        done = subprocess.run(
            [python, __file__, "--here", name, "--out", str(given.out)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        versions[name] = done.stdout.splitlines()[-1].removeprefix("made by: ")
        print(f"{name}: {versions[name]}")
        write_versions(given.out, told, versions)


if __name__ == "__main__":
    main()
