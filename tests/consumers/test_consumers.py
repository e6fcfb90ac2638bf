"""What curate writes is read right by the libraries that people go on with: rows, images, captions, labels."""

import importlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate
from curate.embedding.torchvision_guard import import_open_clip
from curate.writers.exports.image_files import ImageFile
from curate.writers.exports.open_clip import write_open_clip
from tests.producers import truth
from tests.producers.test_producers import MADE, number_of

pytestmark = [
    pytest.mark.usefixtures("no_flush"),
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
#: The rows that the condition of the runs here keeps; row 4 has no caption, row 9 no image.
KEPT = [1, 2, 3, 4, 6, 8]
WHERE = "(score >= 0.2 or score is null) and id <> '0009'"
CODES = [truth.CLASSES.index(truth.LABELS[number]) for number in KEPT]
CAPTIONS = [truth.CAPTIONS[number] for number in KEPT]


def filtered(path, folder, **more):
    """Run on given vectors: no model is needed for what is written."""
    np.save(folder / "vectors.npy", truth.vectors(0))
    settings = {"cluster.concepts": 2, "memory": "2GB", "limits.unusable": 0.2, **more}
    return curate.filter(
        str(MADE / path), out=folder / "run", where=WHERE, vectors=str(folder / "vectors.npy"), workers=1,
        settings=settings, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, no_flush):
    """A run on rows whose images are bytes."""
    return filtered("datasets_parquet", tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory, no_flush):
    """A run on rows whose images are files beside."""
    return filtered("pandas_csv/rows.csv", tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def tars(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("tars") / "out"
    run.export("webdataset", str(out), columns=["uid", "weight"])
    return sorted(out.glob("*.tar"))


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, with caches of its own and without a network."""
    for name, value in (
        ("HF_HOME", str(tmp_path / "hf")),
        ("HF_HUB_OFFLINE", "1"),
        ("HF_DATASETS_OFFLINE", "1"),
    ):
        monkeypatch.setenv(name, value)
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def numbers(images):
    """Return which images of the truth these are, as PIL images, arrays of pixels or bytes."""
    found = []
    for one in images:
        if isinstance(one, bytes):
            found.append(number_of(one, True))
            continue
        out = io.BytesIO()
        (one if isinstance(one, Image.Image) else Image.fromarray(np.asarray(one))).save(out, "PNG")
        found.append(number_of(out.getvalue(), True))
    return found


def shards(run):
    return sorted(str(path) for path in (Path(run.path) / "6_filtered").glob("*.parquet"))


# --- Parquet: datasets, frames, databases ---------------------------------------------------------------------------


def check_rows(rows):
    assert numbers(row["image"] for row in rows) == KEPT
    assert [row["caption"] for row in rows] == CAPTIONS
    assert [row["id"] for row in rows] == [truth.IDS[number] for number in KEPT]
    assert [row["score"] for row in rows] == [truth.SCORES[number] for number in KEPT]


def test_datasets_loads_the_shards(run, datasets, tmp_path):
    loaded = datasets.load_dataset("parquet", data_files=shards(run), split="train", cache_dir=str(tmp_path))
    check_rows(list(loaded))
    assert loaded.features["label"].names == list(truth.CLASSES) and loaded["label"][:] == CODES
    folder = datasets.load_dataset(str(Path(run.path) / "6_filtered"), cache_dir=str(tmp_path / "folder"))
    check_rows(list(folder["train"]))


def test_datasets_streams_the_shards(run, datasets):
    streamed = datasets.load_dataset("parquet", data_files=shards(run), split="train", streaming=True)
    rows = list(streamed)
    check_rows(rows)
    assert [row["label"] for row in rows] == CODES


def test_datasets_feeds_torch(run, datasets, tmp_path):
    from torch.utils.data import DataLoader

    loaded = datasets.load_dataset("parquet", data_files=shards(run), split="train", cache_dir=str(tmp_path))
    columns = loaded.select_columns(["image", "label", "year"]).with_format("torch")
    batches = list(DataLoader(columns, batch_size=4))
    assert [len(batch["label"]) for batch in batches] == [4, 2]
    images = np.concatenate([batch["image"].numpy() for batch in batches])
    assert numbers(images.transpose(0, 2, 3, 1)) == KEPT
    assert [int(code) for batch in batches for code in batch["label"]] == CODES


def test_frames_and_databases_read_shards_and_tables(run):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    out, decisions = Path(run.path) / "6_filtered", Path(run.path) / "5_decisions"
    ids = [truth.IDS[number] for number in KEPT]
    with duckdb.connect() as database:
        found = database.execute(
            f"select id, caption, image.bytes from '{out}/*.parquet' order by id"
        ).fetchall()
        kept = database.execute(
            f"select count(*) filter (keep), count(*) from '{decisions}/*.parquet'"
        ).fetchall()
    assert [row[:2] for row in found] == list(zip(ids, CAPTIONS, strict=True)) and kept == [
        (len(KEPT), truth.N)
    ]
    assert numbers(row[2] for row in found) == KEPT
    frame = pandas.read_parquet(shards(run))  # a card lies beside them
    assert frame["id"].tolist() == ids and frame["caption"].isna().tolist() == [
        text is None for text in CAPTIONS
    ]
    assert numbers(image["bytes"] for image in frame["image"]) == KEPT
    assert len(pandas.read_parquet(decisions)) == truth.N
    lazy = (
        pl.scan_parquet(f"{out}/*.parquet")
        .select("id", "label", pl.col("image").struct.field("bytes"))
        .collect()
    )
    assert lazy["id"].to_list() == ids and lazy["label"].to_list() == CODES
    assert numbers(lazy["bytes"]) == KEPT
    assert pl.read_parquet(f"{decisions}/*.parquet")["keep"].sum() == len(KEPT)


# --- tars: datasets, webdataset, wids -------------------------------------------------------------------------------


def check_samples(samples, image="png"):
    assert numbers(one[image] for one in samples) == KEPT
    assert [one["txt"] or None for one in samples] == CAPTIONS
    about = [one["json"] if isinstance(one["json"], dict) else json.loads(one["json"]) for one in samples]
    assert [one["id"] for one in about] == [truth.IDS[number] for number in KEPT]
    assert [one["label_name"] for one in about] == [truth.LABELS[number] for number in KEPT]
    assert all(one["weight"] == 1 and len(one["uid"]) == 32 for one in about)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_the_tars(tars, datasets, tmp_path, streaming):
    files = {"train": [str(path) for path in tars]}
    loaded = datasets.load_dataset(
        "webdataset", data_files=files, split="train", cache_dir=str(tmp_path), streaming=streaming
    )
    check_samples(list(loaded))


def test_datasets_loads_the_folder_of_tars(tars, datasets, tmp_path):
    loaded = datasets.load_dataset(str(tars[0].parent), split="train", cache_dir=str(tmp_path))
    check_samples(list(loaded))


def test_webdataset_reads_the_tars(tars):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in tars]
    check_samples(list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil")))
    pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pilrgb").to_tuple("jpg;png", "txt")
    assert [text or None for _, text in pairs] == CAPTIONS


def test_wids_reads_the_tars_by_number(tars, tmp_path):
    wids = pytest.importorskip("wids")
    listed = [{"url": str(path), "nsamples": len(KEPT)} for path in tars]
    found = wids.ShardListDataset(listed, cache_dir=str(tmp_path), keep=True)
    assert len(found) == len(KEPT)
    samples = [
        {name.lstrip("."): value for name, value in found[place].items()} for place in range(len(found))
    ]
    check_samples(samples)


# --- training -------------------------------------------------------------------------------------------------------


def trained(get_data, batch_size=2, **settings):
    """Let open_clip train a small model for an epoch by its own loop; return the captions and images it saw."""
    open_clip = import_open_clip()
    pytest.importorskip("open_clip_train.data", exc_type=ImportError)
    import torch
    from open_clip_train.train import train_one_epoch

    sides = {"vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
             "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}}  # fmt: skip
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, output_dict=True, **sides)
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    seen = []

    def tokens(texts):
        seen.extend([texts] if isinstance(texts, str) else texts)
        return tokenizer(texts)

    args = SimpleNamespace(
        batch_size=batch_size, workers=0, world_size=1, rank=0, local_rank=0, seed=0, distributed=False, device="cpu", precision="fp32",
        distill=False, accum_freq=1, skip_scheduler=True, grad_clip_norm=None, log_every_n_steps=1, wandb=False,
        save_logs=False, horovod=False, local_loss=False, gather_with_grad=False, **settings,
    )  # fmt: skip
    data = getattr(importlib.import_module("open_clip_train.data"), get_data)(
        args, transform, True, tokenizer=tokens
    )
    before = [one.detach().clone() for one in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_one_epoch(model, {"train": data}, open_clip.ClipLoss(), 0, optimizer, None, None, None, args)
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2 and all(torch.isfinite(one).all() for one in model.parameters())
    return seen


@pytest.mark.long
def test_open_clip_trains_on_the_list_of_files(of_files, tmp_path):
    out = tmp_path / "train.csv"
    of_files.export("open_clip", str(out))
    texts = {"csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": "\t"}
    seen = trained("get_csv_dataset", 5, train_data=str(out), **texts)
    assert sorted(text.strip() for text in seen) == sorted(text for text in CAPTIONS if text)


def test_no_caption_is_nothing_to_the_reader_of_open_clip(tmp_path):
    """open_clip reads its list with pandas, to which some words are nulls, in quotes too."""
    pandas = pytest.importorskip("pandas")
    parsers = pytest.importorskip("pandas._libs.parsers")
    words = [*sorted(parsers.STR_NA_VALUES - {""}), "a cat", 'the "NA"\tof\nlines', "  N/A"]
    files = [ImageFile(f"{place}.png", Path(f"{place}.png"), word) for place, word in enumerate(words)]
    assert write_open_clip(tmp_path / "train.csv", files) == (len(words), 0)
    read = [str(text) for text in pandas.read_csv(tmp_path / "train.csv", sep="\t")["title"]]
    assert [text.strip() for text in read] == [word.strip() for word in words]


@pytest.mark.long
def test_open_clip_trains_on_the_tars(tars):
    """Long: its import takes seconds; what it loads is in tests/writers, in `test_open_clip_loads_the_run`."""
    seen = trained(
        "get_wds_dataset", train_data=str(tars[0]), train_num_samples=len(KEPT), dataset_resampled=False,
        train_data_upsampling_factors=None,
    )  # fmt: skip
    assert sorted(seen) == sorted(text or "" for text in CAPTIONS)


# --- lists ----------------------------------------------------------------------------------------------------------


def test_the_resharder_of_datacomp_finds_the_kept_uids(run, tmp_path):
    """It searches an ascending list of pairs of whole numbers for each uid, and takes a sample as often as it is there."""
    out = tmp_path / "subset.npy"
    run.export("npy", str(out))
    subset = np.load(out, mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    decisions = run.decisions()
    for uid, keep in decisions.select("uid", "keep").iter_rows():
        key = np.array([divmod(int(uid, 16), 2**64)], dtype=np.dtype("u8,u8"))
        times = np.searchsorted(subset, key, "right") - np.searchsorted(subset, key, "left")
        assert times == int(keep)


def test_names_and_links_lead_to_the_kept_files(of_files, datasets, tmp_path):
    of_files.export("names", str(tmp_path / "kept.txt"))
    names = (tmp_path / "kept.txt").read_text().splitlines()
    assert numbers((MADE / "pandas_csv" / name).read_bytes() for name in names) == KEPT
    of_files.export("copies", str(tmp_path / "copies"))
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "copies"), cache_dir=str(tmp_path / "cache")
    )
    assert sorted(numbers(loaded["train"]["image"])) == KEPT


def test_the_sampler_draws_the_kept_rows(run):
    from torch.utils.data import DataLoader

    from curate.torch import sampler

    uids = run.samples()["uid"].to_list()
    drawn = sampler(run, dataset_uids=uids, num_samples=200, seed=1)
    seen = {
        int(place) for batch in DataLoader(range(truth.N), batch_size=8, sampler=drawn) for place in batch
    }
    assert seen == set(KEPT)
