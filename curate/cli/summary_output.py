"""How `inspect` shows the facts of a run: one short table per subject, nothing for what there is none of."""

from collections.abc import Mapping, Sequence
from typing import Any

from curate.analysis.summary.said import say_concepts, say_first, say_labels
from curate.cli.diagnosis_output import show_diagnosis
from curate.cli.output import (
    MAX_TEXT,
    bytes_text,
    duration_text,
    note,
    percent,
    plain,
    print_table,
    section,
    write,
)  # fmt: skip
from curate.cli.sparkline import sparkline, unicode_stdout
from curate.selection.spread import said_of

__all__ = ["show"]

#: Which stage settles which reason, by how the reason begins.
SETTLED = {
    "exact_duplicate": "read",
    "filter": "filter",
    "excluded": "filter",
    "not_listed": "filter",
    "leak": "filter",
    "near_duplicate": "dedup",
    "dropped": "people",
}
#: Groups that are listed.
MAX_GROUPS = 10
CONCEPT_COLUMNS = ("n_eligible", "complexity", "d_intra", "d_inter", "budget", "kept")

Facts = Mapping[str, Any]


def show(facts: Facts) -> None:
    """Print all sections, warnings last and on stderr."""
    _counts(facts)
    for name, title in (
        ("concepts", "largest"), ("most_complex", "most complex"), ("most_pruned", "least kept")
    ):  # fmt: skip
        _concepts(title, facts.get(name), facts["n_concepts"])
    if facts["complexity"]:
        write(f"\n{said_of(facts['complexity'])}\n")
    write("".join(f"\n{text}\n" for text in say_concepts(facts.get("levels"), facts.get("balance"))))
    _scores(facts["scores"])
    _duplicates(facts["duplicates"])
    _near_sample(facts.get("near_sample"))
    _groups(facts["groups"])
    _labels(facts)
    _first(facts)
    _weights(facts["weights"])
    show_diagnosis(facts)
    _reliability(facts["reliability"])
    _times(facts["times"])
    _matters(facts["matters"])
    for shard in facts["bad_shards"]:
        note(f"warning: {shard['error']}")
    for text in facts["warnings"]:
        note(f"warning: {text}")


def _matters(matters: Sequence[Facts]) -> None:
    """Print what matters, a sentence a line, with the command that helps."""
    if not matters:
        return
    said = [
        f"- {plain(one['text'])}{': ' + plain(one['command']) if one['command'] else ''}\n" for one in matters
    ]
    write(f"\nwhat matters\n{''.join(said)}")


def _counts(facts: Facts) -> None:
    """Print rows in, kept, and the others by reason, with the stage that settled it."""
    counts = facts["counts"]
    if counts is None:
        total = sum(facts["outcomes"].values())
        rows = [[name, n, percent(n / total)] for name, n in facts["outcomes"].items()]
        if rows:
            print_table(["outcome", "rows", "share"], [["rows in", total, percent(1.0)], *rows])
        return
    lines: list[tuple[str, int, str]] = [("rows in", counts["rows"], ""), ("kept", counts["kept"], "")]
    first = (("pinned", "filter"), ("spared", "filter"), ("kept:override", "people"))
    lines += [(f"of these {why}", counts[why], by) for why, by in first if counts.get(why)]
    for group, default in (("dropped", "select"), ("unusable", "embed")):
        for reason, n in counts[group].items():
            lines.append((f"{group}: {reason}", n, SETTLED.get(reason.split(":")[0], default)))
    total = max(counts["rows"], 1)
    print_table(["", "rows", "share", "stage"], [[name, n, percent(n / total), by] for name, n, by in lines])


def _concepts(title: str, rows: Sequence[Facts] | None, total: int | None) -> None:
    if not rows:
        return
    columns = [name for name in CONCEPT_COLUMNS if rows[0].get(name) is not None]
    columns = columns if "n_eligible" in rows[0] else ["n_assigned"]
    shown, named = [], "name" in rows[0]
    for row in rows:
        limit = " ".join(name for name in ("cap", "floor") if row.get(f"at_{name}"))
        shares = [percent(row["share"]), limit] if "share" in row else []
        called = [_cut(row["name"] or "-")] if named else []
        numbers = [row[name] for name in columns]
        shown.append([row["concept"], *called, *numbers, *shares, _typical(row["typical"])])
    names = {"n_eligible": "samples", "n_assigned": "samples"}
    ends = ["share", "at", "typical sample"] if "share" in rows[0] else ["typical sample"]
    write(f"\n{title} of {total:,} concepts\n")
    print_table(
        ["concept", *(["name"] if named else []), *(names.get(name, name) for name in columns), *ends], shown
    )


def _typical(sample: Facts | None) -> str:
    """Return what says most about a sample: its caption, else its label, else its uid."""
    text = "-" if sample is None else str(sample["caption"] or sample["label"] or sample["uid"])
    return _cut(text)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _scores(scores: Sequence[Facts]) -> None:
    """Print quantiles, how the samples are spread from the least value to the largest, and what is kept there."""
    blocks = unicode_stdout()
    rows = []
    for row in scores:
        quantiles = [value for name, value in row.items() if name[0] == "p" and name[1:].isdigit()]
        kept = sparkline(row["kept"] or (), top=1.0, blocks=blocks)
        rows.append(
            [
                row["score"],
                row["n"],
                row["missing"],
                *quantiles,
                sparkline(row["histogram"], blocks=blocks),
                kept,
            ]
        )
    if rows:
        names = [name for name in scores[0] if name[0] == "p" and name[1:].isdigit()]
        section("score", ["n", "missing", *names, "spread", "kept share"], rows)


def _duplicates(facts: Facts | None) -> None:
    if facts is None:
        return
    noted = {name: facts.get(name) for name in ("compared", "dropped", "epsilon")}
    rows = [[name, value] for name, value in noted.items() if value is not None]
    rows += [["share", percent(facts["share"])]] if facts.get("share") is not None else []
    if calibrated := facts.get("calibration"):
        rows.append([f"epsilon of copies of {calibrated['images']:,} images", calibrated["epsilon"]])
        rows.append(["images with another as near", percent(calibrated["near"])])
        rows.append(["images with another just beyond", percent(calibrated["beyond"])])
    rows += [["confirmed by", "small pictures"]] if facts.get("confirm") else []
    similarity = facts["similarity"]
    rows += [
        [f"{name} similarity of the dropped", value]
        for name, value in similarity.items()
        if value is not None
    ]
    section("near-duplicates", ["value"], rows)


def _near_sample(found: Facts | None) -> None:
    if found is None:
        return
    rows = [[f"within {epsilon}", percent(share)] for epsilon, share in found["within"].items()]
    section(f"near-duplicates stay; of {found['rows']:,} sampled rows", ["have another"], rows)


def _groups(groups: Mapping[str, Sequence[Facts]]) -> None:
    for by, found in groups.items():
        rows = [
            [
                str(row["group"])[:MAX_TEXT],
                row["rows"],
                row["kept"],
                percent(row["share"]),
                "!" if row["shrunk"] else "",
            ]
            for row in found[:MAX_GROUPS]
        ]
        title = by if len(found) <= MAX_GROUPS else f"{by} (first {MAX_GROUPS} of {len(found):,})"
        section(title, ["usable", "kept", "share", ""], rows)


def _weights(facts: Facts | None) -> None:
    if facts is None:
        return
    names = {"rows": "kept rows", "effective": "worth (effective sample size)"}
    order = ["method", "rows", "effective", "least", "mean", "most"]
    section("weights", ["value"], [[names.get(n, n), facts[n]] for n in order if facts.get(n) is not None])


def _labels(facts: Facts) -> None:
    """Print how many labels look wrong, and the pairs of classes that are most often mixed up."""
    errors = facts["label_errors"]
    if not errors or (facts["auto"] and errors.get("unseen")):
        return
    if not facts["auto"]:  # which says the same
        write("".join(f"\n{text}\n" for text in say_labels({**errors, "pairs": []})))
    rows = [[str(a)[:MAX_TEXT], str(b)[:MAX_TEXT], n] for a, b, n in errors["pairs"][:MAX_GROUPS]]
    section("label", ["looks like", "rows"], rows)


def _first(facts: Facts) -> None:
    """Print what came before the method; of method auto why, and the recipe that does the same."""
    auto = facts["auto"]
    said = auto["why"] if auto else say_first(facts["first"])
    if said:
        write("\n" + "".join(f"{text}\n" for text in said) + (f"\n{auto['recipe']}" if auto else ""))


def _reliability(families: Sequence[Facts]) -> None:
    names = [name for name in ("seeds", "reliability", "reliability_of_mean", "accuracy")
             if any(row.get(name) is not None for row in families)]  # fmt: skip
    header = [name.replace("_", " ") for name in names]
    section("seeds agree", header, [[row["family"], *(row.get(name) for name in names)] for row in families])


def _times(times: Mapping[str, Facts]) -> None:
    rows = [
        [
            stage,
            duration_text(one["seconds"]),
            one["rows"],
            round(one["rows_per_s"]),
            bytes_text(one["peak_memory"]) if "peak_memory" in one else None,
        ]
        for stage, one in times.items()
        if {"seconds", "rows", "rows_per_s"} <= one.keys()
    ]
    section("stage", ["time", "rows", "rows/s", "memory at most"], rows)
