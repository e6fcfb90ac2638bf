"""The loop in docs/training.md, as a user copies it: on rows of the sample, stopped and gone on with.

In two processes, as torchrun starts them: test_torch_ranks.py, and here by torchrun itself in the long tests.
"""

import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import curate
from curate.torch import sampler
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.pictured import picture
from tests.fixtures.training import BLOCKS, ROOT, training_place


@pytest.fixture(scope="module")
def place(tmp_path_factory, no_flush):
    folder = tmp_path_factory.mktemp("training")
    shards, run = training_place(folder)
    return folder, shards, run


def train(place, monkeypatch, capsys, name, *options):
    """Run the script in this process; return what it said, and the checkpoint."""
    folder, shards, run = place
    path = folder / f"{name}.pt"
    call = [run.path, shards, "--checkpoint", path, "--samples", 44, "--batch-size", 8, *options]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, call)])
    runpy.run_path(str(folder / "train.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines(), torch.load(path)


@pytest.mark.usefixtures("plain_forks")
def test_training_goes_on_where_it_stopped(place, monkeypatch, capsys):
    said, whole = train(place, monkeypatch, capsys, "whole", "--workers", 0)
    assert [line.split(" samples")[0] for line in said] == [f"epoch {epoch}: 44" for epoch in range(3)]
    assert whole["draws"]["given"] == 44 and whole["reweight"] == {"steps": 18}
    stops = []
    for steps in (4, 4, 99, 99):  # in the first epoch, in the second, at the end, and once more
        said, state = train(place, monkeypatch, capsys, "stopped", "--workers", 2, "--steps", steps)
        stops.append((state["draws"]["epoch"], state["draws"]["given"], len(said)))
    assert stops == [(0, 32, 1), (1, 16, 2), (2, 44, 2), (2, 44, 0)]
    for name, value in whole["model"].items():
        assert torch.equal(value, state["model"][name]), name
    assert whole["draws"] == state["draws"]


def test_another_data_set_is_refused(place, monkeypatch, capsys):
    folder, _, run = place
    other = (folder, str(ROOT / "data/sample/*.parquet"), run)
    with pytest.raises(SystemExit, match=r"has 2000 rows, and .* is of 240"):
        train(other, monkeypatch, capsys, "other")


@pytest.mark.long
def test_two_processes_of_torchrun(place):
    folder, shards, run = place
    call = [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py", run.path, shards,
        "--checkpoint", "two.pt", "--samples", "45", "--batch-size", "4", "--epochs", "2", "--workers", "0",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *map(str, call)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.split(" samples")[0] for line in said] == ["epoch 0: 23", "epoch 1: 23"]
    state = torch.load(folder / "two.pt")
    assert state["draws"] == {"seed": 0, "epoch": 1, "given": 23, "num_replicas": 2, "total_size": 46}
    assert state["reweight"] == {"steps": 12}


def test_the_other_blocks(place):
    """What stands below the loop, with the names that the loop has made."""
    _, shards, run = place
    known = runpy.run_path(str(place[0] / "train.py"), run_name="train")
    known |= {
        "run": run,
        "data": known["Pictures"](shards),
        "loss_of": torch.nn.CrossEntropyLoss(reduction="none"),
    }
    known["net"] = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 24))
    known["optimizer"] = torch.optim.SGD(known["net"].parameters(), lr=0.1)
    for block in BLOCKS[1:-1]:
        exec(block, known)  # noqa: S102  (what the page shows)
    prune, n_kept = known["prune"], int((sampler(run).weights > 0).sum())
    assert np.isfinite(prune.scores).all() and len(prune.scores) == n_kept
    assert len(prune) == n_kept, "the last epoch has all"
    drawn = set(known["draws"])
    weights = sampler(run).weights
    assert len(known["draws"]) == 1000 and drawn and all(weights[index] > 0 for index in drawn)


def test_a_folder_of_pictures(tmp_path, monkeypatch, no_flush):
    """The last block, on a run of pictures with a label that people put right."""
    keys = [f"{'cats' if i % 2 else 'dogs'}/{i:02d}.png" for i in range(40)]
    for i, key in enumerate(keys):
        path = tmp_path / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, (8, 8)))
    glob = write_shards(
        tmp_path / "in", planted(40), extra={"image": keys, "label": [key[:4] for key in keys]}
    )
    values = recipe_values(glob, tmp_path / "runs/labelled", cluster={"concepts": 2})
    curate.run(values, until="select", progress=False).overrides.wrong_label("cats/01.png", label="birds")
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(BLOCKS[-1], known)  # noqa: S102  (what the page shows)
    photos, run = known["photos"], known["run"]
    assert photos.classes == ["birds", "cats", "dogs"]
    places = [photos.uids.index(f"s{i:06d}") for i in (0, 1, 3)]
    assert [photos.labels[place] for place in places] == [2, 0, 1]
    pixel = torch.from_numpy(np.array(Image.open("photos/cats/03.png"))[0, 0])
    assert torch.equal(photos[places[2]][0][:, 0, 0], pixel / 255)
    kept = set(run.kept()["uid"])
    assert {photos.uids[index] for index in known["batches"].sampler} <= kept and kept
