"""How well each pair of image and caption stands out among the pairs of its batch (formulas: `formula.py`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.scores.base import AtLeastOne, Positive, Score
from curate.scores.columns import Column
from curate.settings import Count

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["Pair"]


class Pair(Score):
    """Contrastive scores of image-text pairs; temperature `auto` is that of the model.

    required : false says nothing where no row has a caption; all scores are null then in any case.
    """

    measures: ClassVar[str] = "how a pair stands out among the pairs of its batch"
    paper: ClassVar[str] = "Radford et al. 2021, arXiv:2103.00020; Wang et al. 2024, arXiv:2405.19547"
    cost: ClassVar[str] = "pairs x batch x d, twice with grand, for each repeat"
    requires: ClassVar[str] = "image and caption vectors of one model"
    avoid: ClassVar[str] = "for a few pairs: the values depend on the batch"
    place: ClassVar[int] = 2
    outputs: ClassVar[Mapping[str, Column]] = {
        "nce_i2t": Column("harder"), "nce_t2i": Column("harder"), "nce": Column("harder"),
        "nce_norm": Column("harder"), "neg_clip_loss": Column("better"), "neg_clip_loss_norm": Column("better"),
        "pair_el2n_i2t": Column("harder"), "pair_el2n_t2i": Column("harder"), "pair_grand": Column("harder"),
    }  # fmt: skip

    family: Literal["pair"] = "pair"
    batch: Annotated[Count, Field(ge=2)] = 4096
    repeats: AtLeastOne = 5
    temperature: Literal["auto"] | Positive = "auto"
    mask_copies: bool = True
    el2n: bool = True
    grand: bool = True
    required: bool = True

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers; newer ones count where they are set."""
        return self.model_dump(mode="json", exclude={"required"} if self.required else None)

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Captions with their vectors."""
        return ("text",)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns that are asked for."""
        wanted = {"pair_el2n_i2t": self.el2n, "pair_el2n_t2i": self.el2n, "pair_grand": self.grand}
        return {name: column for name, column in self.outputs.items() if wanted.get(name, True)}

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from threadpoolctl import threadpool_limits

        from curate.hashing import hash_uids
        from curate.scores.pair.formula import OWN_TEMPERATURE, pair_scores
        from curate.scores.status import status_names

        if samples.text is None and not self.needed:
            nothing = {name: kind.nothing(len(samples)) for name, kind in self.columns_made().items()}
            return nothing, np.full(len(samples), "no_text", object)
        image, text = samples.require("pair", "image"), samples.require("pair", "text")
        temperature = (
            self.temperature if self.temperature != "auto" else samples.temperature or OWN_TEMPERATURE
        )
        caption = picture = None
        if self.mask_copies:
            picture = np.unique(image, axis=0, return_inverse=True)[1].reshape(-1)
        if self.mask_copies and samples.captions is not None:
            codes: dict[str, int] = {}
            named = (None if one is None else codes.setdefault(one, len(codes)) for one in samples.captions)
            caption = np.array([-1 if code is None else code for code in named], np.int64)
        one_batch = int(samples.has_text.sum()) <= self.batch  # every repeat is then the same
        with threadpool_limits(1, user_api="blas"):  # the last bits of a product depend on their number
            scores, status = pair_scores(
                image, text, hash_uids(samples.uids, samples.seed, "pair"), temperature=temperature,
                batch=self.batch, repeats=1 if one_batch else self.repeats, has_text=samples.has_text,
                caption=caption, picture=picture, el2n=self.el2n, grand=self.grand,
            )  # fmt: skip
        return {name: getattr(scores, name) for name in self.columns_made()}, status_names(status)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.pair import parts

        return parts.compute(context, self, output)
