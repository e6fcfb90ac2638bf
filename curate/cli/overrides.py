"""The command `overrides`: what people decided about the rows of a run."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note, print_table
from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.api.overrides import RunOverrides
    from curate.runs.run import StoredRun

#: The endings by which a format is known where none is named.
_ENDINGS = {".csv": "csv", ".parquet": "parquet"}


def _uids(help_: str) -> Any:  # noqa: ANN401  (an option of typer)
    return Option(metavar="UID,UID", help=help_)


@app.command()
def overrides(
    run: flag.RunPlace,
    keep: Annotated[
        flag.Text, _uids("Keep these rows, by uid, file name, path or key; a file of them as @FILE.")
    ] = None,
    drop: Annotated[flag.Text, _uids("Drop these rows.")] = None,
    not_duplicate: Annotated[flag.Text, _uids("These rows are no near-duplicates.")] = None,
    right_label: Annotated[flag.Text, _uids("The labels of these rows are right.")] = None,
    wrong_label: Annotated[flag.Text, _uids("The labels of these rows are wrong.")] = None,
    label: Annotated[flag.Text, Option("--label", help="With --wrong-label: the right one.")] = None,
    reset: Annotated[flag.Text, _uids("Take back all that was decided about these rows.")] = None,
    import_: Annotated[
        flag.Text, Option("--import", metavar="FILE", help="Take the decisions of a file.")
    ] = None,
    export: Annotated[
        flag.Text, Option("--export", metavar="FILE", help="Write decisions to a file.")
    ] = None,
    format_: Annotated[
        flag.Text,
        Option("--format", help="csv, parquet, fiftyone, label-studio or argilla; by the ending of FILE."),
    ] = None,
    rows: Annotated[
        flag.Text, Option("--rows", help="With --export: decided, kept, dropped or all rows.")
    ] = None,
    undo: Annotated[bool, Option("--undo", help="Take back your latest action.")] = False,
    redo: Annotated[bool, Option("--redo", help="Let what you took back last stand again.")] = False,
    history: Annotated[bool, Option("--history", help="Show all that was ever decided.")] = False,
    by: Annotated[flag.Text, Option("--by", help="Who decides; your user name by default.")] = None,
    json_: flag.Json = False,
) -> None:
    """Show, write down and exchange what people decided about rows: `curate select RUN --write` respects it.

    Examples: curate overrides RUN --drop a1,b2; curate overrides RUN --wrong-label a1 --label cat;
    curate overrides RUN --export sheet.csv --rows dropped; curate overrides RUN --import sheet.csv
    """
    from curate.api.overrides import RunOverrides
    from curate.runs.run import open_run

    own = RunOverrides(open_run(run), by)
    given = {
        "keep": keep,
        "drop": drop,
        "not_duplicate": not_duplicate,
        "right_label": right_label,
        "wrong_label": wrong_label,
        "reset": reset,
    }
    uids = {what: _listed(what, text) for what, text in given.items() if text is not None}
    _check_label(label, uids)
    done: dict[str, Any] = dict(own.decide(uids, label=label)) if uids else {}
    if label is not None and (said := _new_label(open_run(run), label)):
        note(f"warning: {said}; if that is a mistake: curate overrides {run} --undo")
    if import_ is not None:
        done["imported"] = own.import_file(import_, _format(import_, format_))
    done |= {
        name: turn() for name, asked, turn in (("undo", undo, own.undo), ("redo", redo, own.redo)) if asked
    }
    if export is not None:
        done["exported"] = own.export_file(export, _format(export, format_), rows=rows)  # type: ignore[arg-type]
    _show(own, done, history=history, json_=json_)


def _listed(what: str, given: str) -> list[str]:
    """Return the uids of an option, or of a file that it names."""
    parts = [given] if given.startswith("@") else [one.strip() for one in given.split(",") if one.strip()]
    uids = [uid for one in parts for uid in flag.uids_of(one)]
    if not uids:
        raise UsageError(f"--{what.replace('_', '-')} takes uids with commas between them, got {given!r}")
    return uids


def _check_label(label: str | None, uids: Mapping[str, Sequence[str]]) -> None:
    if label is not None and "wrong_label" not in uids:
        raise UsageError("--label goes with --wrong-label UIDS")
    if label is not None and not label.strip():
        raise UsageError("--label is empty; leave it out where the right label is not known")


def _new_label(run: "StoredRun", label: str) -> str | None:
    """Return what is to be said of a label that no row has; None where one has it."""
    names = run.folder.class_names()
    codes = run.samples(lazy=True).select("label").unique().collect()["label"].drop_nulls()
    known = {*codes, *(names.get(code, code) for code in codes), *names, *names.values()}
    if label in known:
        return None
    close = get_close_matches(label, sorted(known), n=1)
    return f"no row has the label {label!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _format(path: str, named: str | None) -> str:
    found = named or _ENDINGS.get(Path(path).suffix.lower())
    if found is None:
        raise UsageError(
            f"{path}: its ending names no format; add --format csv, parquet, fiftyone, label-studio or argilla"
        )
    return found


def _show(own: "RunOverrides", done: dict[str, Any], *, history: bool, json_: bool) -> None:
    frame = own.history() if history else own.current()
    texts = frame.with_columns(frame["when"].dt.to_string("iso:strict"))
    if json_:
        emit({**done, "history" if history else "decisions": texts.to_dicts()})
        return
    for name, value in done.items():
        note(f"{name}: {'nothing' if value is None else value}")
    if not done or history:
        print_table(texts.columns, [list(row) for row in texts.rows()])
        note(f"{len(frame):,} {'decisions and turns in all' if history else 'decisions hold'}")
