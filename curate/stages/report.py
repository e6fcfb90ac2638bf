"""Stage `report`: the page and the summary, from the tables of the run."""

from collections import Counter

import polars as pl

from curate import storage
from curate.errors import RunError
from curate.stages.base import Context, log

__all__ = ["VERSION", "count_reasons", "run"]

VERSION = 1


def run(context: Context) -> bool:
    """Write `report.html` and `summary.json`; return whether anything was to do."""
    folder = context.run.report
    stamp = storage.fingerprint("report", VERSION, context.run.stamp(context.run.filtered))
    if context.run.is_done(folder, stamp):
        return False
    context.run.unmark(folder)
    storage.write_json(folder / "summary.json", count_reasons(context))
    context.run.mark(folder, stamp, {})
    log.info("report: %s", folder / "report.html")
    return True


def count_reasons(context: Context) -> dict[str, object]:
    """Return rows in, kept, dropped by reason and unusable by outcome; raises RunError if they do not add up."""
    reasons: Counter[str] = Counter()
    kept = 0
    for part in context.parts:
        path = context.run.part(context.run.decisions, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["reason", "keep"]))
        reasons.update(dict(frame["reason"].value_counts().iter_rows()))
        kept += int(frame["keep"].sum())
    rows = sum(part.rows for part in context.parts)
    unusable = {
        name.removeprefix("unusable:"): n for name, n in reasons.items() if name.startswith("unusable:")
    }
    dropped = {name: n for name, n in reasons.items() if name != "kept" and not name.startswith("unusable:")}
    if kept != reasons["kept"] or rows != kept + sum(dropped.values()) + sum(unusable.values()):
        raise RunError(f"{rows:,} rows in are not {kept:,} kept + {dropped} dropped + {unusable} unusable")
    return {
        "rows": rows,
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "unusable": dict(sorted(unusable.items())),
    }
