"""How well relevance cuts, and when it says that nothing fits: `python benchmarks/retrieve.py --data FOLDER --out FOLDER`.

Everything is embedded by the tiny CLIP. First table: the validation and test photos of clothing; names are the classes; at
equal numbers of results over all names, mean recall / worst class's recall / precision of one cut on raw cosines and of
others. Second: how well the estimated precision holds. Third: queries that should find something and queries that should
not. The lists below were written after the rule, and were not looked at while it was made.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import curate
from curate.analysis.retrieval.ground import Ground, ground_of, relevant, text_vectors
from curate.analysis.retrieval.retrieve import Asked, retrieve
from curate.analysis.search import text_model
from curate.analysis.summary.tables import part_names
from curate.embedding.store import EmbeddingPart
from curate.retrieval import relevance as formulas

Floats = npt.NDArray[np.float64]

COUNTS = (200, 356, 713, 1000, 1500)
#: Queries that must find nothing, anywhere.
REFUSED = (
    "a submarine in quantum foam",
    "the 1987 tax code",
    "asdf qwer",
    "a black hole",
    "chess endgame theory",
)
SENSELESS = (
    "kjhg poiu", "a treatise on macroeconomics", "eigenvalues of a sparse matrix", "a subpoena", "the french revolution",
    "quantum chromodynamics", "uiop hjkl", "an annual shareholder meeting", "plausible deniability", "a linked list in memory",
    "the doppler effect", "bureaucratic inertia", "mmmm nnnn bbbb", "a derivative of a polynomial", "a trade deficit",
    "existential dread", "a kernel panic", "venture capital funding", "flurb gronk", "a semiconductor fabrication plant",
    "the treaty of versailles", "an mri scanner", "a copyright infringement lawsuit", "metamorphic rock strata", "yyy",
    "a database migration", "cognitive behavioural therapy", "the suez canal", "a hydroelectric dam", "baroque counterpoint",
    "an aircraft carrier", "postmodern literary criticism", "a container terminal", "zqxj", "inflation adjusted wages",
    "a particle accelerator", "the roman senate", "tectonic subduction", "a bridge loan agreement", "neural machine translation",
    "the heat death of the universe", "a coral reef ecosystem", "statistical mechanics", "a password manager", "wub wub wub",
)  # fmt: skip
SENSIBLE = {
    "emoji": (
        "a cat", "a yellow smiling face", "a horse", "an elephant", "a red apple", "the sun", "a star", "a rainbow", "a camera",
        "a bus", "a train", "a ship", "a tree", "a cactus", "a mushroom", "cheese", "ice cream", "birthday cake", "a hamburger",
        "coffee", "beer mug", "a violin", "a trumpet", "basketball", "tennis", "a trophy", "scissors", "a hammer", "a lock",
        "an envelope", "a telephone", "a television", "a battery", "a crying face", "an angry face", "a skull", "an alien",
        "a baby", "a police officer", "santa claus", "a pair of shoes", "a necktie", "a purple heart", "a broken heart",
        "a snowflake",
    ),
    "clothing": (
        "a photo of a hat", "a photo of pants", "red dress", "a black dress", "a white shirt", "a striped shirt", "a green t-shirt",
        "a yellow t-shirt", "a grey t-shirt", "black pants", "blue pants", "white pants", "a pair of pants", "brown shoes",
        "white shoes", "a pair of shoes", "red shoes", "blue shorts", "black shorts", "grey shorts", "a short skirt",
        "a black skirt", "a blue skirt", "a long dress", "a pink dress", "a blue hat", "a black hat", "a cap", "a black jacket",
        "a winter coat", "jeans", "trousers", "a sweater", "a hoodie", "boots", "a blouse", "a polo shirt", "clothes",
        "longsleeve", "a black longsleeve", "a white longsleeve", "a red outwear", "black outwear", "a denim skirt",
        "a shirt on a hanger",
    ),
}  # fmt: skip
#: Sensible by themselves, but far from clothes.
FAR = (
    "a dog", "a cat", "a red car", "a rocket", "a pizza", "a house", "a tree", "the moon", "a clock", "a guitar", "an airplane",
    "a snowman", "a cow", "fire", "a key", "a banana", "a soccer ball", "a castle", "a boat", "a stop sign", "a flower", "a fish",
    "a bicycle", "an umbrella", "a smiling face", "a trophy", "a robot", "a ghost", "a mountain", "a bell", "a candle",
    "a birthday cake", "a telephone", "an elephant", "a bee", "a rainbow", "a balloon", "a butterfly", "a bus", "a star",
)  # fmt: skip


def run_of(files: list[Path], out: Path) -> curate.Run:
    """Return a run on these files, up to its concepts."""
    sources = [{"name": f"s{number}", "path": str(file)} for number, file in enumerate(files)]
    values = {"source": sources, "embed": {"model": "tiny"}, "score": [], "select": {"method": "all"}}
    return curate.run(values, out=out, until="select", progress=False)


def images_of(run: curate.Run) -> tuple[Floats, list[str]]:
    """Return the vectors of a run's images and the names of their labels."""
    folder = run.folder
    parts = [
        EmbeddingPart(folder.part(folder.embeddings, name)) for name in part_names(folder, folder.embeddings)
    ]
    vectors = np.concatenate([block for part in parts for _, block in part.blocks("image")]).astype(
        np.float64
    )
    uids = [uid for part in parts for uid in part.uids()]
    labels = dict(run.samples().select("uid", "label").iter_rows())
    classes = folder.class_names()
    return vectors, [classes.get(labels[uid], "") if labels[uid] is not None else "" for uid in uids]


def ways(ground: Ground, images: Floats, names: list[str]) -> dict[str, Floats]:
    """Return what each way makes of the names and images, (names, n): higher is more relevant."""
    heat = ground.temperature
    plain = np.asarray(ground.clip.encode_texts(names), np.float64)
    raw, cosines, bank = plain @ images.T, text_vectors(ground.clip, names) @ images.T, ground.bank @ images.T
    where = formulas.location(text_vectors(ground.clip, names) @ ground.background.T, heat)
    lifts = formulas.log_lift(cosines, where, heat)
    other = formulas.something_else(formulas.log_lift(bank, ground.bank_where, heat))
    centred = unit(images - images.mean(axis=0))
    texts = unit(text_vectors(ground.clip, names) - ground.bank.mean(axis=0))
    return {
        "raw cosine": raw,
        "raw cosine, prompts": cosines,
        "location and scale of the query": (cosines - cosines.mean(1)[:, None]) / cosines.std(1)[:, None],
        "location of the query": cosines - cosines.mean(1)[:, None],
        "centred by the mean image and text": texts @ centred.T,
        "bank: surplus over the nearest ten (CSLS)": formulas.surplus(cosines, bank),
        "bank: location and scale of the image": (cosines - bank.mean(0)) / bank.std(0),
        "bank: softmax for the image": softmax(np.concatenate([cosines, bank]) / heat, 0)[: len(names)],
        "names: softmax for the image": softmax(cosines / heat, 0),
        "names: both softmaxes multiplied": softmax(cosines / heat, 0) * softmax(cosines / heat, 1),
        "mixture of two normals per query": np.stack([mixture(row) for row in cosines]),
        "names: lift, then softmax": softmax(lifts, 0),
        "relevance (lift, then softmax with something else)": formulas.posterior(lifts, other),
    }


def unit(rows: Floats) -> Floats:
    """Return rows scaled to length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(values: Floats, axis: int) -> Floats:
    """Return the softmax along an axis."""
    found = np.exp(values - values.max(axis=axis, keepdims=True))
    return found / found.sum(axis=axis, keepdims=True)


def mixture(values: Floats) -> Floats:
    """Return the probability of the upper of two normals fitted to the cosines of one query."""
    from sklearn.mixture import GaussianMixture

    first = [[values.mean()], [np.quantile(values, 0.95)]]
    fitted = GaussianMixture(2, random_state=0, means_init=first).fit(values[:, None])
    return fitted.predict_proba(values[:, None])[:, fitted.means_[:, 0].argmax()] + 1e-6 * values


def recalls(values: Floats, truth: Floats, count: int) -> str:
    """Return mean recall, that of the worst class, and precision, of the `count` largest values of all names."""
    taken = values >= np.sort(values, axis=None)[::-1][count - 1]
    each = (taken & (truth > 0)).sum(1) / truth.sum(1)
    return f"{each.mean():.3f} / {each.min():.3f} / {(taken & (truth > 0)).sum() / taken.sum():.2f}"


def answers(ground: Ground, queries: tuple[str, ...]) -> list[str]:
    """Return the queries that find something."""
    found: Callable[[str], Any] = lambda one: relevant(ground, [one], top=1, compete=False)[0]
    return [one for one in queries if len(found(one).rows)]


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    asked = arguments.parse_args()
    clothing = [
        next((asked.data / "clothing").glob(f"{split}-*.parquet")) for split in ("validation", "test")
    ]
    photos = run_of(clothing, asked.out / "clothing")
    emoji = run_of(sorted((asked.data / "noto_emoji").glob("*.parquet")), asked.out / "emoji")
    clip = text_model(photos.folder)
    grounds = {name: ground_of(run.folder, clip) for name, run in (("emoji", emoji), ("clothing", photos))}

    images, labels = images_of(photos)
    names = sorted(set(labels))
    truth = np.array([[float(label == name) for label in labels] for name in names])
    print(
        "| way | " + " | ".join(f"{count:,} results" for count in COUNTS) + " |\n|---|" + "---|" * len(COUNTS)
    )
    for way, values in ways(grounds["clothing"], images, names).items():
        print(
            f"| {way} | " + " | ".join(recalls(values, truth, count) for count in COUNTS) + " |", flush=True
        )

    print("\n| wanted precision | relevance | found | estimated | true |\n|---|---|---|---|---|")
    for wanted in (0.6, 0.7, 0.8, 0.9, 0.95):
        found = retrieve(photos.path, Asked(tuple(names), precision=wanted))
        right = int(found.concepts["right"].sum()) / max(len(found.rows), 1)
        said = found.rows["relevance"].mean()
        print(
            f"| {wanted} | {found.threshold:.3f} | {len(found.rows)} | {said:.3f} | {right:.3f} |", flush=True
        )

    print("\n| pool | queries | should find | do |\n|---|---|---|---|")
    for pool, ground in grounds.items():
        curve = ground.curve
        print(
            f"<!-- {pool}: auc {curve.auc:.3f}, decided by {'captions' if ground.captions_decide else 'model'} -->"
        )
        cases = [("must be refused", REFUSED, "nothing"), ("senseless, far topics", SENSELESS, "nothing")]
        cases += [("sensible", SENSIBLE[pool], "something")]
        if pool == "clothing":
            cases += [("classes", tuple(names), "something"), ("other things", FAR, "nothing")]
        else:
            own = tuple(
                sorted({text for text in emoji.samples()["caption"] if text and ":" not in text})[::30]
            )
            cases += [("names of emoji", own, "something")]
        for kind, queries, should in cases:
            there = answers(ground, queries)
            wrong = there if should == "nothing" else [one for one in queries if one not in there]
            print(
                f"| {pool} | {kind} | {should} | {len(there)} of {len(queries)}; wrong: {', '.join(wrong) or 'none'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
