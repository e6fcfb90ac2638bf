"""What an evaluation is asked for, checked before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curate.errors import UsageError
from curate.recipe import Evaluate
from curate.selection.registry import selectors
from curate.settings import parse_share

__all__ = ["JUDGES", "LEAST_DRAWS", "OWN", "Method", "Request", "make_request"]

#: What is said of each judge.
JUDGES = {
    "heads": "a small network on the frozen vectors: a quick look, in which the encoder hides much of what a subset lacks",
    "pixels": "a small convolutional network on the images, from scratch",
    "pairs": "linear maps on the frozen vectors of images and captions, trained to bring pairs together",
}
#: The run's own selection, among the methods.
OWN = "run"
#: Fewer random draws say too little of chance.
LEAST_DRAWS = 5
#: A difference of seeds needs two.
_LEAST_SEEDS = 2
_HOLDOUT = "10%"


@dataclass(frozen=True)
class Method:
    """A selection to judge. settings : in place of those of the run, by dotted name; none for the run's own."""

    name: str
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Request:
    """What to evaluate: see `curate.api.run.Run.evaluate`."""

    judge: str
    split: str | None
    holdout: float | None
    seed: int
    keep: tuple[float, ...]
    methods: tuple[Method, ...]
    draws: int
    seeds: int
    steps: int
    near: float | None
    device: str
    workers: int | None

    @property
    def held_out(self) -> str:
        """How rows are held out, in words."""
        if self.split is not None:
            return f"split {self.split}"
        return f"holdout {100 * (self.holdout or 0):g} %, seed {self.seed}"


def make_request(
    recipe: Evaluate | None = None,
    *,
    judge: str | None = None,
    split: str | None = None,
    holdout: float | str | None = None,
    seed: int | None = None,
    keep: Sequence[float | str] = (),
    methods: Sequence[str] = (),
    draws: int | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    near: float | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Request:
    """Return a request; raises UsageError for what cannot be.

    recipe : the section `evaluate` of a recipe, which holds for what is not given.

    >>> make_request(keep=["10%"], methods=["random", "hardest:el2n"]).methods[1]
    Method(name='hardest:el2n', settings={'select.method': 'hardest', 'select.by': 'el2n'})
    """
    own = Evaluate() if recipe is None else recipe
    if split is None and holdout is None:
        split, holdout = own.split, own.holdout
    given = {"judge": judge, "seed": seed, "draws": draws, "seeds": seeds, "steps": steps, "near": near}
    own = own.model_copy(update={name: value for name, value in given.items() if value is not None})
    keep, methods = keep or own.keep, methods or own.methods
    if own.judge not in ("auto", *JUDGES):
        raise UsageError(f"--judge must be auto, {', '.join(JUDGES)}, got {own.judge!r}")
    if split is not None and holdout is not None:
        raise UsageError("--split and --holdout exclude each other; give one of them")
    for name, value, least in (
        ("draws", own.draws, LEAST_DRAWS),
        ("seeds", own.seeds, _LEAST_SEEDS),
        ("steps", own.steps, 1),
    ):
        if value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}")
    if own.near is not None and not 0 < own.near < 1:
        raise UsageError(f"--near must be in (0, 1), got {own.near:g}")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    share = None if split is not None else _share("holdout", _HOLDOUT if holdout is None else holdout)
    shares = tuple(sorted({_share("keep", one) for one in keep}))
    chosen = tuple(_method(name) for name in dict.fromkeys(methods or [OWN]))
    return Request(
        own.judge,
        split,
        share,
        own.seed,
        shares,
        chosen,
        own.draws,
        own.seeds,
        own.steps,
        own.near,
        device,
        workers,
    )


def _share(name: str, value: float | str) -> float:
    """Return a share between 0 and 1, both left out."""
    try:
        share = parse_share(value)
    except ValueError:
        raise UsageError(f"--{name} takes shares such as 0.1 or 10%, got {value!r}") from None
    if not 0 < share < 1:
        raise UsageError(f"--{name} must be in (0, 1), got {value}")
    return share


def _method(text: str) -> Method:
    """Return a method from its name, perhaps with the score it goes by: ``hardest:el2n``."""
    name, colon, by = text.strip().partition(":")
    known = selectors()
    if name == OWN and not colon:
        return Method(OWN, {})
    if name not in known:
        raise UsageError(
            f"--methods: {name!r} is no method; there are {OWN} (as the run selects), {', '.join(known)}"
        )
    if known[name].keeps_all:
        raise UsageError(
            f"--methods: {name} keeps all rows, whatever the share; take --methods {OWN} without --keep"
        )
    return Method(text.strip(), {"select.method": name, **({"select.by": by} if colon else {})})
