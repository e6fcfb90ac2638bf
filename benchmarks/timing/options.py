"""The options that all benchmarks take."""

import argparse
from pathlib import Path

#: Pairs of turns of each size, unless --pairs says otherwise.
PAIRS = {"toy": 1, "short": 3, "long": 5}


class _Options(argparse.ArgumentParser):
    def parse_args(self, *given, **more):  # type: ignore[override]  # noqa: ANN002, ANN003, ANN202
        found = super().parse_args(*given, **more)
        found.pairs = found.pairs or PAIRS[found.size]
        return found


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with --short, --toy, --pairs and --json; the parsed options have `size`, `pairs` and `json`."""
    parser = _Options(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(size="long")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--short", dest="size", action="store_const", const="short", help="a minute or two, three pairs"
    )
    sizes.add_argument(
        "--toy",
        dest="size",
        action="store_const",
        const="toy",
        help="seconds: only to see that it runs",
    )
    parser.add_argument("--pairs", type=int, help="turns of each contender (3 short, 5 long)")
    parser.add_argument("--json", type=Path, help="write all figures here, and a table to the same name .md")
    return parser
