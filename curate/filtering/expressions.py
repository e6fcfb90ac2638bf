"""Conditions in SQL as expressions: names with a dot stand for columns of the source.

``source.width`` is the column `width` of the source where the run has one of that name too; ``json.width`` the field of
the JSON member of a tar's samples.
"""

import json
import re

import polars as pl

__all__ = ["BEFORE", "expression", "numbers_in"]

#: What stands before the name of a column of the source.
BEFORE = "source."
#: A text, a name in quotes, or a name of the source.
_PIECE = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | (?<![\w.])(source|json)\.(?:"((?:[^"]|"")+)"|([^\W\d]\w*(?:\.[^\W\d]\w*)*))""",
    re.VERBOSE,
)


def expression(condition: str) -> pl.Expr:
    r"""Return a condition as an expression of columns; a column of the source is called as it is written.

    >>> expression("source.width > 3 and label = 'source.x' and json.\"a b\" is null").meta.root_names()
    ['source.width', 'label', 'json.a b']
    """
    return pl.sql_expr(_PIECE.sub(_quoted, condition))


def _quoted(match: re.Match[str]) -> str:
    """Return a name of the source as one name in quotes, anything else as it is."""
    where, quoted, plain = match.groups()
    return match[0] if where is None else f'"{where}.{quoted or plain}"'


def numbers_in(condition: str) -> frozenset[str]:
    """Return the columns that a condition compares, or reckons, with numbers.

    >>> sorted(numbers_in("0.5 > a and b in (1, 2) or c = '3' and d + 1 > e and cast(f as int) = 6"))
    ['a', 'b', 'd']
    """
    found: set[str] = set()
    waiting = [expression(condition)]
    while waiting:
        one = waiting.pop()
        inner = one.meta.pop()
        waiting += inner
        if _is_operator(one) and any(_is_number(each) for each in inner):
            found.update(name for each in inner if each.meta.is_column() for name in each.meta.root_names())
    return frozenset(found)


def _is_operator(node: pl.Expr) -> bool:
    """Return True for a comparison, a sum and the like, and IN."""
    root = json.loads(node.meta.serialize(format="json"))
    if not isinstance(root, dict):
        return False
    function = root.get("Function", {}).get("function", {})
    return "BinaryExpr" in root or (isinstance(function, dict) and "Sql" in function)


def _is_number(node: pl.Expr) -> bool:
    """Return True for a number, or a list of numbers, that stands in the condition itself."""
    if not node.meta.is_literal(allow_aliasing=True):
        return False
    kind = pl.select(node).dtypes[0]
    return kind.inner.is_numeric() if isinstance(kind, pl.List) else kind.is_numeric()
