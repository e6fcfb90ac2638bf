"""Data sets as the library `datasets` writes them."""

import json
import tempfile

from tests.producers import truth
from tests.producers.registry import producer, write_images


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
