"""How many rows a share is: one rounding for all methods."""

from fractions import Fraction

from curate.errors import BudgetError

__all__ = ["exact_share", "n_keep"]


def n_keep(share: float | str | Fraction, total: int) -> int:
    """Return `share` of `total` rows in exact decimals, halves rounded up: a number of rows to KEEP.

    share : in (0, 1], as a number, a decimal string or a percentage ("30%"). total : at least 0.
    Raises BudgetError for any other share: a count of 0 is asked for as a count.

    >>> n_keep(0.018, 750), n_keep("30%", 10), n_keep(0.5, 5)
    (14, 3, 3)
    """
    exact = exact_share(share)
    if not 0 < exact <= 1:
        raise BudgetError(f"select.keep must be in (0, 1], got {share}")
    if total < 0:
        raise BudgetError(f"the number of rows must be at least 0, got {total}")
    return int(exact * total + Fraction(1, 2))


def exact_share(share: float | str | Fraction) -> Fraction:
    """Return `share` as the decimal it was written as, "30%" as 3/10; BudgetError if it is no number.

    >>> exact_share(0.1), exact_share("12.5%")
    (Fraction(1, 10), Fraction(1, 8))
    """
    text = str(share).strip()
    try:
        if text.endswith("%"):
            return Fraction(text[:-1].strip()) / 100
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise BudgetError(f"a share must be a number or a percentage, got {share!r}") from error
