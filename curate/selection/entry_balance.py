"""The balanced draw of MetaCLIP, with an exact number of rows: t is what keeps so many."""

from collections.abc import Mapping
from typing import Any, Literal

from curate.ordering.span import Span, key_value, span_cuts
from curate.scores.metaclip import drawn_below
from curate.selection.base import RowSource, pairs
from curate.selection.extremes import KeepsStretch
from curate.selection.rules import Rule, Stretch

__all__ = ["Metaclip"]


class Metaclip(KeepsStretch):
    """The rows that MetaCLIP's draw keeps at the t at which it keeps as many as asked for.

    It goes by the score `metaclip`, which says of each row at which t it is kept. Rows without an entry are dropped as
    `no_score:no_match`. For a given t take ``filter: ["metaclip_t < 20000"]`` and method all.
    """

    keeps = "what captions rarely say, and a draw of what they often say (entries of `metaclip`)"
    needs = "the score `metaclip`"
    direction = "what is drawn at the smallest t first"
    paper = "Xu et al. 2023, arXiv:2309.16671"
    avoid = "when captions are templates or lists of tags; where rare means broken: caption rules go first"
    as_it_is = True
    from_easiest = True
    known_odds = False
    floor_order = "key"
    own_score = "metaclip_t"
    place = 12

    method: Literal["metaclip"] = "metaclip"
    on_null: Literal["proportional", "keep", "drop", "error"] = "drop"

    def span(self, n_keep: int, total: int) -> Span:
        """Return the first ranks, counted from the row that is drawn first."""
        return Span("easiest", 0, n_keep)

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Stretch:
        """Return the rows that are drawn first; how likely each was depends on all its entries."""
        return Stretch(span_cuts(pairs(rows), self.span(n_keep, total)), known=False)

    def noted(self, rows: RowSource, rule: Rule, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Say the t, and how many entries are head and tail."""
        cuts = rule.cuts if isinstance(rule, Stretch) else None
        if cuts is None or cuts.upto is None or self.shipped or "by_count" not in facts:
            return {}
        t = key_value(cuts.upto[0], "easiest")
        head, tail = drawn_below(facts["by_count"], t)
        unseen = facts["entries"] - head - tail
        said = (
            f"metaclip: t is {t:,.4g}; {head:,} entries have more captions (head, drawn), {tail:,} have fewer (tail, all "
            f"kept), {unseen:,} have none"
        )
        return {"notes": [said]}
