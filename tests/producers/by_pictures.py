"""Images with text beside them, as the tools that download, pack or annotate them leave them."""

import contextlib
import functools
import http.server
import importlib.util
import json
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

from tests.producers import truth
from tests.producers.by_frames import frame
from tests.producers.registry import producer, write_images

#: The addresses of images that img2dataset downloaded stand in its tables, so the port is always the same.
PORT = 48123


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
