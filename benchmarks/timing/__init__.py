"""Time two or more ways of doing the same thing against each other, each in a fresh process, in turns.

    from timing import Contender, arguments, call, compare, write

    def faiss_way(rows, dim):              # in the script itself
        x = make(rows, dim)
        yield                              # all before the first yield prepares and is not timed
        return {"loss": fit(x)}            # small facts, shown in the table

    def main(given: list[str] | None = None) -> None:
        options = arguments(__doc__).parse_args(given)
        rows = {"toy": 1_000, "short": 50_000, "long": 1_000_000}[options.size]
        found = compare(
            f"{rows:,} rows",
            Contender("curate filter", [*CURATE, "filter", ...], fresh=[out], facts=lambda: read(out)),
            [Contender("FAISS alone", call(__file__, "faiss_way", rows=rows, dim=512))],
            pairs=options.pairs,
        )
        write("kmeans", [found], options)

The first contender is ours; the others are compared with it pair by pair. A ratio is their seconds divided by ours of
the same turn: above 1, ours is the faster. `timing/README.md` says what is measured and how.
"""

from timing.contender import CURATE, ROOT, Contender, call
from timing.options import arguments
from timing.results import render, write
from timing.summary import put_between, summary
from timing.turns import Comparison, Turn, compare

__all__ = [
    "CURATE", "ROOT", "Comparison", "Contender", "Turn", "arguments", "call", "compare", "put_between",
    "render", "summary", "write",
]  # fmt: skip
