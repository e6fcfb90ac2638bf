"""How commands show things: log lines and progress on stderr, data on stdout; colour where a terminal shows it."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TextIO

import typer

from curate.api.progress import shown
from curate.progress import bytes_text, duration_text

if TYPE_CHECKING:
    from curate.execution.context import Progress

__all__ = [
    "MAX_TEXT",
    "ReaderGoneError",
    "bytes_text",
    "duration_text",
    "emit",
    "logged",
    "marked",
    "note",
    "percent",
    "plain",
    "print_counts",
    "print_table",
    "progress",
    "section",
    "text_of_json",
    "without_controls",
    "write",
    "write_as_it_is",
]

#: Characters of a caption or a name in a table.
MAX_TEXT = 40

#: Characters JSON leaves as they are, though a terminal may obey them or refuse to show them.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

#: Rows of the table of counts.
_COLOURS = {"kept": "green", "dropped": "yellow", "unusable": "red"}

_OBEYED = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f]|{_CONTROLS.pattern}")


class ReaderGoneError(Exception):
    """Nobody reads stdout any more (`| head`)."""


def write(text: str) -> None:
    """Write lines to stdout, so that a terminal shows them and obeys nothing in them. Raises ReaderGoneError where nobody reads them."""
    write_as_it_is("\n".join(map(plain, text.split("\n"))))


def write_as_it_is(text: str) -> None:
    """Write text to stdout that holds colours of curate's own, or in which nothing is left that a terminal may obey.

    Raises ReaderGoneError where nobody reads it.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None


def note(text: str) -> None:
    """Write a line for people to stderr."""
    sys.stderr.write(f"{marked(plain(text))}\n")


def marked(line: str) -> str:
    """Return a line for stderr, with the word `error` or `warning` that it begins with in colour where stderr shows colour."""
    word, colon, rest = line.partition(":")
    colour = {"error": "red", "warning": "yellow"}.get(word)
    if not colon or colour is None or not _shows_colour(sys.stderr):
        return line
    return typer.style(f"{word}:", fg=colour, bold=True) + rest


def _shows_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that colour is wanted on (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(text: str) -> str:
    r"""Return `text` as one line that a terminal shows and does not obey.

    >>> plain("two\nlines \x1b[31mred")
    'two lines \\x1b[31mred'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if char.isspace() else ascii(char)[1:-1] for char in text
    )


@contextmanager
def logged(*, quiet: bool = False) -> Iterator[None]:
    """Send curate's log lines to stderr while inside: warnings and one line per stage; only errors where quiet.

    To be entered after `progress`, which puts them above its bars.
    """
    logger = logging.getLogger("curate")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    handler.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = plain(record.getMessage())
        return marked(f"warning: {text}") if record.levelno >= logging.WARNING else text


@contextmanager
def progress(*, quiet: bool = False) -> Iterator["Progress"]:
    """Give a progress function: bars on a terminal; elsewhere a line now and then."""
    with shown(not quiet, note) as report:
        yield report


def emit(value: object) -> None:
    """Print a value as JSON on stdout."""
    write_as_it_is(text_of_json(value, indent=2) + "\n")


def text_of_json(value: object, *, indent: int | None = None) -> str:
    r"""Return JSON in which nothing is left that a terminal may obey.

    >>> text_of_json({"caption": "\u202eabc"})
    '{"caption": "\\u202eabc"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_controls(text: str) -> str:
    r"""Return lines of text in which nothing is left that a terminal may obey; ends of lines and tabs stay.

    >>> without_controls("a,\x1b[31mred\n\tb\n")
    'a,\\x1b[31mred\n\tb\n'
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], colours: Sequence[str | None] = ()
) -> None:
    """Print a table on stdout: text to the left, numbers to the right. colours : of each row, on a terminal."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))
    ]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    shown = colours if _shows_colour(sys.stdout) else ()
    for line, colour in zip_longest([list(header), *cells], [None, *shown]):
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        text = "  ".join(padded).rstrip()
        write_as_it_is((typer.style(text, fg=colour) if colour else text) + "\n")


def print_counts(counts: Mapping[str, Any], more: Mapping[str, float | None] | None = None) -> None:
    """Print rows in, kept, dropped and unusable by reason, with their shares; then what `more` has."""
    groups = [("rows in", counts["rows"]), ("kept", counts["kept"])]
    groups += [
        (f"of these {why}", counts[why]) for why in ("pinned", "spared", "kept:override") if counts.get(why)
    ]
    for group in ("dropped", "unusable"):
        groups += [(f"{group}: {reason}", count) for reason, count in counts[group].items()]
    groups += [(name, round(value)) for name, value in (more or {}).items() if value is not None]
    lines = [[name, count, count / counts["rows"] if counts["rows"] else None] for name, count in groups]
    colours = [_COLOURS.get(name.partition(":")[0]) for name, _ in groups]
    print_table(["", "rows", "share"], lines, colours)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return plain(str(value))


def section(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table under a title; nothing without rows."""
    if rows:
        write("\n")
        print_table([title, *header], rows)


def percent(share: float | None) -> str:
    """Return a share in percent; what is not quite none or all never looks so.

    >>> percent(0.3), percent(0.00001), percent(None)
    (' 30.0 %', ' <0.1 %', '-')
    """
    if share is None:
        return "-"
    points = 100 * share
    near = "<0.1" if 0 < points < 0.05 else ">99.9" if 99.95 <= points < 100 else f"{points:.1f}"
    return f"{near:>5} %"
