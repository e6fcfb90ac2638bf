"""The decisions of many recipes, compared with what they were when `golden_decisions.json` was written.

Nothing but the command line and the tables of a run is used here, so that modules may move. Every recipe has

- `reasons`: how many rows have which reason, for people;
- `portable`: a hash of the sorted decisions (uid, keep, reason, concept, weight to four decimals, and the rank
  where it does not hang on trained scores). It must hold on every machine;
- `exact`: what `curate verify RUN --digest` prints, by kind of processor, because the last bits of scores depend
  on the kernels that the libraries of linear algebra choose. On a kind that is not in the file it is not compared.

To write the file anew: `python tests/whole_runs/test_golden_decisions.py --write`. Do so only in a commit that
names the recipes that changed and the reason, or one that adds a kind of processor. Digests of other kinds are
kept where the decisions are what they were and the digest of the kind at hand is too.

`made_before/*.tar.gz` are run folders with their source, made by the code before its modules were moved. They are
never made anew: they stand for the runs that people have. When they were made, the script of plotly in their reports
was empty, because it takes megabytes, and the machine was called `somewhere`; all else is as in any run.
"""

import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import curate
from curate.__main__ import main  # what `python -m curate` runs, wherever it is defined

HERE = Path(__file__).resolve().parent
STORED = HERE / "golden_decisions.json"
MADE_BEFORE = HERE / "made_before"
N, DIM = 240, 16
COLOURS = ["red", "green", "blue", "yellow", "white", "black"]

pytestmark = pytest.mark.timeout(300)


# --- the command line ---------------------------------------------------------------------------------------


def call(*arguments):
    """Run `curate` with these arguments in this process; return what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code in (0, None), f"curate {' '.join(map(str, arguments))}\n{err.getvalue()}"
    return out.getvalue()


def call_alone(*arguments):
    """Run `curate` in a process of its own."""
    paths = [str(Path(curate.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-m", "curate", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=True, capture_output=True,
    )  # fmt: skip


def decide(recipe, *flags, until="select", by=call):
    """Write a recipe beside its run, and run it; return the run folder."""
    path = Path(f"{recipe['run']}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe))
    by("run", path, "--quiet", "--until", until, *flags)
    return Path(recipe["run"])


# --- data ---------------------------------------------------------------------------------------------------


def draw():
    """Return vectors of images and captions, labels and captions: six clusters of unequal size and spread.

    Rows 200 to 219 nearly copy the first 20; rows 220 to 227 copy rows 20 to 27 exactly. Every twelfth caption
    belongs to another row, every eleventh label is wrong, every seventeenth is missing; two rows have no vector.
    """
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((6, DIM))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    which = rng.choice(6, N, p=[0.3, 0.25, 0.18, 0.13, 0.09, 0.05])
    spread = np.array([0.05, 0.08, 0.11, 0.06, 0.1, 0.07])[which, None]
    images = centres[which] + spread * rng.standard_normal((N, DIM))
    captions = images + 0.12 * rng.standard_normal((N, DIM))
    captions[::12] = captions[5::12][::-1]
    code = which.copy()
    code[3::11] = (code[3::11] + 1) % 6
    labels = [None if row % 17 == 4 else COLOURS[c] for row, c in enumerate(code)]
    said = [f"a {COLOURS[c]} thing, number {row}" for row, c in enumerate(which)]
    images[200:220] = images[:20] + 0.001 * rng.standard_normal((20, DIM))
    for row in range(220, 228):
        images[row], captions[row] = images[row - 200], captions[row - 200]
        labels[row], said[row] = labels[row - 200], said[row - 200]
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    images, captions = images.astype(np.float32), captions.astype(np.float32)
    images[[60, 161]] = np.nan
    return images, captions, labels, said


def names(n=N):
    return [f"s{row:04d}" for row in range(n)]


def write_data(folder):
    """Write the rows as two shards with vectors, and as ids beside `.npy` files; lists; scores of our own."""
    images, captions, labels, said = draw()
    table = pa.table({
        "id": names(), "text": said, "label": labels,
        "image_vector": pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), DIM),
        "text_vector": pa.FixedSizeListArray.from_arrays(pa.array(captions.reshape(-1)), DIM),
    })  # fmt: skip
    for place in ("in", "ids", "npy"):
        (folder / place).mkdir(parents=True)
    for number, start in enumerate((0, 130)):
        rows = table.slice(start, (130, N)[number] - start)
        pq.write_table(rows, folder / "in" / f"{number}.parquet")
        pq.write_table(rows.select(["id", "text", "label"]), folder / "ids" / f"{number}.parquet")
        np.save(folder / "npy" / f"{number}.npy", images[start : start + len(rows)])
    rng = np.random.default_rng(8)
    own = {"id": names(), "hard": rng.permutation(N) / 8, "noisy": rng.permutation(N) / 4 - 20.0}
    frame = pl.DataFrame(own).filter(pl.int_range(N) % 13 != 6)
    frame.write_parquet(folder / "own.parquet")
    frame.select("id", good=-pl.col("hard")).write_parquet(folder / "good.parquet")
    (folder / "pin.txt").write_text("\n".join(names()[30:36]) + "\n")
    (folder / "exclude.txt").write_text("\n".join(names()[36:50]) + "\n")
    (folder / "only.txt").write_text("\n".join(names()[:180]) + "\n")
    np.save(folder / "target.npy", images[70:80])


def write_pictures(folder):
    """Write 90 pictures of one square each with captions and labels as a tar, and their captions as a table."""
    rng = np.random.default_rng(9)
    rows = []
    (folder / "tar").mkdir()
    with tarfile.open(folder / "tar" / "0.tar", "w") as tar:
        for row in range(90):
            colour, size = COLOURS[row % 6], ("small", "large")[row % 2]
            picture = Image.new("RGB", (64, 64), (128, 128, 128))
            edge = 18 if size == "small" else 44
            left, top = rng.integers(0, 64 - edge, 2).tolist()
            picture.paste(Image.new("RGB", (edge, edge), colour), (left, top))
            data = io.BytesIO()
            picture.save(data, "png")
            text = f"a {size} {colour} square at {left} {top}"
            rows.append({"id": f"p{row:03d}", "text": text, "label": colour})
            about = json.dumps({"id": f"p{row:03d}", "label": colour}).encode()
            broken = b"no picture" if row == 44 else data.getvalue()
            for suffix, content in (("png", broken), ("txt", text.encode()), ("json", about)):
                member = tarfile.TarInfo(f"{row:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "said").mkdir()
    pl.DataFrame(rows).write_parquet(folder / "said" / "0.parquet")


# --- recipes ------------------------------------------------------------------------------------------------

HEADS = {"heads": {"seeds": 3, "epochs": 3, "folds": 3, "kind": "linear"}}


class Bench:
    """A folder with the data, and the run from which most recipes begin."""

    def __init__(self, folder):
        self.folder = Path(folder)
        write_data(self.folder)
        write_pictures(self.folder)

    def recipe(self, name, **changes):
        """Return the settings of a run on the vectors in the shards; keyword arguments replace whole sections."""
        own = {"file": f"{self.folder}/own.parquet", "on": "id", "on_missing": "null"}
        good = own | {"file": f"{self.folder}/good.parquet", "higher_is": "better"}
        values = {
            "run": str(self.folder / "runs" / name),
            "source": {"path": f"{self.folder}/in/*.parquet", "uid": "id"},
            "embed": {"column": "image_vector", "text_column": "text_vector"},
            "cluster": {"concepts": 8},
            "score": ["clip_score", {"pair": {"repeats": 2}}, HEADS, own, good],
            "dedup": {"epsilon": 0.001},
            "select": {"method": "density", "prefer": "hardest", "keep": 0.3, "temperature": 0.025},
            "memory": "2GB",
            "workers": 1,
        }
        return values | changes

    @cache  # noqa: B019  (one bench per test run)
    def base(self):
        """Return the run with all scores: density, the hardest first."""
        return decide(self.recipe("base"))

    def select(self, name, *flags):
        """Return a copy of the base run with another selection."""
        run = self.folder / "runs" / name
        shutil.copytree(self.base(), run)
        call("select", run, "--quiet", *flags)
        return run


def chosen(*flags):
    return lambda bench, name: bench.select(name, *flags)


def filters_and_lists(bench, name):
    conditions = ("--where", "clip_score >= 0.6", "--where", "{by: hard, bottom: 90%, on_null: keep}")
    lists = [f"{kind}=[{bench.folder}/{kind}.txt]" for kind in ("pin", "exclude", "only")]
    settings = [part for one in lists for part in ("--set", one)]
    return bench.select(name, *conditions, *settings, "--keep", "0.2")


def shipped(bench, name):
    run = bench.select(name, "--method", "random", "--keep", "0.25")
    again = ("--set", "select.temperature=0.025", "--set", "select.shipped=true")  # random has no temperature
    call("select", run, "--quiet", "--method", "density", "--prefer", "hardest", "--keep", "0.3", *again)
    return run


def own_files(bench, name):
    """Vectors in `.npy` files, near-duplicates by the share they are, nearness to a target, and scores fused."""
    own = {"file": f"{bench.folder}/own.parquet", "on": "id", "on_missing": "null"}
    near = {"normsim": {"target": {"path": f"{bench.folder}/target.npy"}}}
    fused = {"fuse": {"columns": {"hard": 2.0, "noisy": 1.0}}}
    return decide(
        bench.recipe(
            name,
            source={"path": f"{bench.folder}/ids/*.parquet", "uid": "id"},
            embed={"files": f"{bench.folder}/npy/*.npy"},
            score=[own, near, fused],
            filter=[{"by": "normsim_inf", "top": 0.8}],
            dedup={"epsilon": {"drop": 0.05}, "mode": "reference"},
            select={"method": "hardest", "by": "fused", "keep": 0.4},
        )
    )


def against(bench, name):
    """Rows that are near an evaluation set, and copies that count as samples of their own."""
    leaks = {"path": f"{bench.folder}/target.npy", "name": "val", "epsilon": 0.01}
    dedup = {"exact": False, "epsilon": 0.001, "prefer": "random", "max_concept": 40, "against": [leaks]}
    return decide(bench.recipe(name, score=["clip_score"], dedup=dedup, seed=5))


def tar_of_pictures(bench, name):
    source = {"path": f"{bench.folder}/tar/*.tar", "uid": "json.id", "label": "json.label"}
    embed = {"model": "tiny", "device": "cpu", "precision": "float32", "batch_size": 32}
    select = {"method": "density", "prefer": "random", "count": 40}
    changes = {"source": source, "embed": embed, "select": select, "score": ["clip_score"]}
    return decide(bench.recipe(name, **changes))


def captions_only(bench, name):
    source = {"path": f"{bench.folder}/said/*.parquet", "image": None, "uid": "id"}
    embed = {"model": "tiny", "device": "cpu", "precision": "float32", "batch_size": 32}
    select = {"method": "quotas", "per": "label", "prefer": "random", "count": 40}
    changes = {"source": source, "embed": embed, "select": select, "score": [], "dedup": {"epsilon": None}}
    return decide(bench.recipe(name, **changes))


def grow(bench, name, *flags, until):
    """Run on the first shard, then on both with what was kept going ahead."""
    source = bench.folder / f"{name}-in"
    source.mkdir()
    recipe = bench.recipe(
        name,
        source={"path": f"{source}/*.parquet", "uid": "id"},
        score=["clip_score"],
        select={
            "method": "density",
            "prefer": "hardest",
            "keep": 0.3,
            "temperature": 0.025,
            "shipped": True,
        },
    )
    for shard in ("0.parquet", "1.parquet"):
        shutil.copy(bench.folder / "in" / shard, source)
        run = decide(recipe, *flags, until=until)
    return run


def grown(bench, name):
    return grow(bench, name, until="select")


def dated(bench, name):
    root = grow(bench, name, "--dated", until="report")
    assert len(list(root.glob("2*"))) == 2
    return root / (root / "latest").read_text().strip()


def on_ray(bench, name):
    return decide(bench.recipe(name, score=["clip_score"], engine="ray"), by=call_alone)


#: Every recipe by its name: a function of the bench and the name that returns a run folder.
RECIPES = {
    "density-hardest": lambda bench, name: bench.base(),
    "density-easiest": chosen("--prefer", "easiest", "--set", "dedup.prefer=easiest"),
    "density-random": chosen("--prefer", "random", "--count", "75"),
    "density-score": chosen("--prefer", "score:hard", "--keep", "0.2", "--set", "select.complexity=inter"),
    "density-cool": chosen("--set", "select.temperature=0.008", "--set", "select.min_per_concept=9"),
    "density-shipped": shipped,
    "hardest-el2n": chosen("--method", "hardest", "--by", "el2n", "--keep", "0.4"),
    "hardest-good": chosen("--method", "hardest", "--by", "good", "--keep", "0.4", "--on-null", "keep"),
    "easiest-pair": chosen("--method", "easiest", "--by", "nce", "--keep", "0.3"),
    "top-own": chosen("--method", "top", "--by", "noisy", "--keep", "0.3", "--on-null", "drop"),
    "top-pair": chosen("--method", "top", "--by", "neg_clip_loss", "--keep", "0.25"),
    "window-share": chosen("--method", "window", "--by", "hard", "--drop-hardest", "0.1", "--keep", "0.3"),
    "window-offset": chosen("--method", "window", "--by", "loss", "--offset", "20", "--keep", "0.3"),
    "middle": chosen("--method", "middle", "--by", "hard", "--center", "0.4", "--keep", "0.3"),
    "stratified-el2n": chosen(
        "--method", "stratified", "--by", "el2n", "--beta", "0.1", "--strata", "6", "--keep", "0.3"
    ),
    "stratified-own": chosen(
        "--method", "stratified", "--by", "hard", "--cutoff", "noisy", "--beta", "0.2", "--strata", "9"
    ),
    "quotas-label": chosen("--method", "quotas", "--per", "label", "--keep", "0.3"),
    "quotas-concept": chosen(
        "--method", "quotas", "--per", "concept", "--prefer", "score:good", "--set", "select.min_per_group=4"
    ),
    "weighted": chosen("--method", "weighted", "--by", "hard", "--gamma", "2", "--keep", "0.35"),
    "diversity": chosen("--method", "diversity", "--keep", "0.3"),
    "diversity-isolated": chosen("--method", "diversity", "--count", "50", "--set", "select.start=isolated"),
    "prototypes": chosen("--method", "prototypes", "--keep", "0.5", "--set", "select.balance=0.4"),
    "random": chosen("--method", "random", "--keep", "0.3"),
    "filters-and-lists": filters_and_lists,
    "weight-concept": chosen("--keep", "1.0", "--at-most", "--weight", "concept"),
    "weight-linupper": chosen("--method", "random", "--keep", "0.5", "--weight", "linupper"),
    "weight-focal": chosen(
        "--method", "random", "--keep", "0.5", "--weight", "focal", "--set", "weight.by=loss"
    ),
    "weight-inverse": chosen("--method", "stratified", "--by", "hard", "--strata", "5", "--weight", "inverse"),
    "own-files": own_files,
    "against": against,
    "tar-of-pictures": tar_of_pictures,
    "captions-only": captions_only,
    "grown": grown,
    "dated": dated,
    "ray": on_ray,
}  # fmt: skip
#: Of these the place of a row hangs on scores that were trained or multiplied, so that last bits may swap neighbours.
WITHOUT_RANKS = {
    "hardest-el2n", "easiest-pair", "top-pair", "window-offset", "stratified-el2n", "weight-linupper",
    "weight-focal", "tar-of-pictures", "captions-only",
}  # fmt: skip


# --- what is stored -----------------------------------------------------------------------------------------


@cache
def kind():
    """Return the kind of processor, with the kernels, threads and packages that last bits may depend on.

    None where the system does not say what processor it has.
    """
    import faiss  # noqa: F401  (its BLAS is one of those asked about)
    import sklearn  # noqa: F401  (and what it brings)
    import threadpoolctl
    import torch

    processor = _processor()
    if processor is None:
        return None
    blas = sorted({
        f"{one['prefix']} {one['architecture']}"
        for one in threadpoolctl.threadpool_info()
        if one.get("architecture")
    })  # fmt: skip
    versions = [f"{name} {_version(name)}" for name in ("numpy", "torch", "faiss-cpu", "scikit-learn")]
    kernels = f"torch {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return "; ".join([processor, *blas, kernels, *versions])


def _version(package):
    from importlib import metadata

    return metadata.version(package)


def _processor():
    """Return vendor, family and model, or None where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return None
    facts = dict(line.replace("\t", "").partition(":")[::2] for line in lines)
    said = [facts.get(name, "").strip() for name in ("vendor_id", "cpu family", "model")]
    return " ".join([platform.machine(), *said]) if all(said) else None


def facts_of(name, run):
    """Return what is compared of a run, the digest of this machine under `digest`."""
    rows = pl.read_parquet(run / "5_decisions" / "part-*.parquet").sort("uid", "occurrence")
    weight = (pl.col("weight").cast(pl.Float64) * 10_000).round().cast(pl.Int64)
    columns = ["uid", "occurrence", "keep", "reason", "concept", *([] if name in WITHOUT_RANKS else ["rank"])]
    table = rows.select(*columns, weight)
    return {
        "reasons": dict(sorted(rows["reason"].value_counts().iter_rows())),
        "portable": hashlib.sha256(json.dumps(table.rows()).encode()).hexdigest(),
        "digest": call("verify", run, "--digest").strip(),
    }


def write(stored):
    """Return what the file is to hold, given what it holds."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        found = {name: facts_of(name, make(bench, name)) for name, make in RECIPES.items()}
    for name, facts in found.items():
        before, digest = stored.get(name, {}), facts.pop("digest")
        exact = before.get("exact", {}) if before.get("portable") == facts["portable"] else {}
        exact = exact if exact.get(kind(), digest) == digest else {}
        facts["exact"] = exact | ({} if kind() is None else {kind(): digest})
    return found


def stored_facts():
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


# --- tests --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("golden"))


def test_every_recipe_is_stored_and_no_other():
    stored = stored_facts()
    assert set(stored) == set(RECIPES) and set(RECIPES) > WITHOUT_RANKS
    for name, facts in stored.items():
        assert set(facts) == {"reasons", "portable", "exact"}, name
        assert facts["reasons"]["kept"] > 0 and len(facts["reasons"]) > 1, name
        assert facts["exact"], name


#: A cluster takes long to start; that it gives the same bytes is tested with it.
SLOW = {"ray": pytest.mark.long}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in RECIPES])
def test_decisions_are_what_they_were(bench, name):
    if name == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    stored = stored_facts()[name]
    found = facts_of(name, RECIPES[name](bench, name))
    assert found["reasons"] == stored["reasons"]
    assert found["portable"] == stored["portable"]
    if kind() in stored["exact"]:
        assert found["digest"] == stored["exact"][kind()]


#: Of each run made before: the digest of its decisions, and the hash of those after `curate select --keep 0.2`.
BEFORE = {
    "density": (
        "b01c8ece5c681901233e3a2d9bf8d46f446d4037cd71397bcfb738b9ac5a2bb0",
        "c423608258c12e71f4136966f991a245ae4d8cc1dfae7a6979f3c0d1122d083b",
    ),
    "stratified_heads": (
        "7e04b6db4a6d472d80353bb00ec281877f478d3751a635c87313d924e667cac0",
        "f29864e24b25cc3f34ff76cd323d95f1ccb896ce02876d376a669e88917e138c",
    ),
}
NIGHTLY = "2e1a2077f70e135e828fe159d6208df72450f1f22642d8ab8ae595edd12278d4"


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """Return a function that unpacks what was made before into the working folder."""

    def unpack(name):
        with tarfile.open(MADE_BEFORE / f"{name}.tar.gz") as tar:
            tar.extractall(tmp_path, filter="data")
        monkeypatch.chdir(tmp_path)
        return Path("run")

    return unpack


def parts(run, *stages):
    """Return the parts of stages, by which file each is, when it was written and what it holds."""
    found = {path: path.stat() for stage in stages for path in sorted((run / stage).rglob("part-*"))}
    assert len(found) >= 2 * len(stages)
    return {path: (s.st_ino, s.st_mtime_ns, path.read_bytes()) for path, s in found.items()}


@pytest.mark.parametrize("name", BEFORE)
def test_a_run_made_before_is_gone_on_with(unpacked, name):
    run = unpacked(name)
    digest, after = BEFORE[name]
    costly = ("0_samples", "1_embeddings", "2_concepts")
    rest = ("4_duplicates",)
    if (
        name != "stratified_heads"
    ):  # version 2 of the score: heads are trained again, and rows selected by them
        costly, rest = (*costly, "3_scores"), (*rest, "5_decisions")
    made = parts(run, *costly, *rest)
    assert "kept" in call("inspect", run)
    call("verify", run)
    assert call("verify", run, "--digest").strip() == digest
    assert curate.open_run(run).decisions()["keep"].sum() == 12
    call("run", run / "recipe.yaml")
    assert parts(run, *costly, *rest) == made
    call("select", run, "--keep", "0.2")
    assert facts_of(name, run)["reasons"]["kept"] == 8
    assert facts_of(name, run)["portable"] == after
    call("run", run / "recipe.yaml")
    call("verify", run)
    assert len(pl.read_parquet(run / "6_filtered" / "*.parquet")) == 8
    assert parts(run, *costly).items() <= made.items()


def test_nights_made_before_are_gone_on_with(unpacked):
    root = unpacked("nightly")
    *_, last = sorted(root.glob("2*"))
    made = parts(last, "0_samples", "1_embeddings", "2_concepts")
    call("verify", root)
    assert call("verify", root, "--digest").strip() == NIGHTLY
    call("run", "recipe.yaml", "--dated", "--set", "select.prefer=hardest")  # what was the default then
    new = root / (root / "latest").read_text().strip()
    assert new.name > last.name
    linked = {new / path.relative_to(last): facts for path, facts in made.items()}
    assert parts(new, "0_samples", "1_embeddings", "2_concepts") == linked
    call("verify", root)
    assert call("verify", root, "--digest").strip() == NIGHTLY


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python {sys.argv[0]} --write")
    STORED.write_text(json.dumps(write(stored_facts()), indent=1, sort_keys=True) + "\n", encoding="utf-8")
