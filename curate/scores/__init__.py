"""One number per sample: how hard, how noisy, how well matched. `SCORES` says what each column means."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.scores.registry import KnownScore

    SCORES: dict[str, KnownScore]

__all__ = ["SCORES"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (only SCORES)
    """Return `SCORES`, read from the classes when it is asked for: those of plug-ins import this package."""
    if name == "SCORES":
        from curate.scores.registry import known_scores

        return known_scores()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
