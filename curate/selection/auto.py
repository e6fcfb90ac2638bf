"""The method for people who do not know: copies and noise out, a floor per class, and a draw."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from curate.selection.random import Random
from curate.settings import Count, Share, none_word

__all__ = ["Auto"]


class Auto(Random):
    """A draw behind what data asks for: rows whose labels are wrong go, and every class keeps half of an equal share.

    Both do nothing where there is nothing to do: no row goes where few labels are counted as wrong, and a floor of half an
    equal share is kept by a draw of even classes anyway. What is not there (labels, captions) is left out: wrong labels are found by
    fast heads, else the worst captions by `pair`, both computed where the recipe says nothing of `score` and a model embeds the images
    (`recipe.AUTO_SCORE`). Labels that are not visible in the pictures (folders by year) are none of these. Near-duplicates go
    first (`dedup.epsilon: auto`, but those whose captions differ), unless the recipe says what to do with them or has
    vectors of its own; where those leave less than was asked for, what there is is kept (`at_most`).
    """

    keeps = "a draw, after near-duplicates and wrong labels are dropped, with half of an equal share for every class"
    needs = (
        "nothing; labels or captions to do more than random (where `score` is named: with `heads`, or `pair`)"
    )
    direction = "none"
    cost = (
        "a few passes over the rows, fast heads where there are labels, `pair` where there are captions; 250 images are embedded again, "
        "altered, to find what a near-duplicate is"
    )
    avoid = "when you know what the data lacks: name a method, `drop_noise` and `floor`"
    takes_what_is_there: ClassVar[bool] = True
    place = -1

    method: Literal["auto"] = "auto"  # type: ignore[assignment]
    drop_noise: Annotated[Literal["auto"] | Share | None, BeforeValidator(none_word)] = "auto"
    floor: Annotated[Literal["half"] | Annotated[Count, Field(ge=1)] | None, BeforeValidator(none_word)] = (
        "half"
    )
