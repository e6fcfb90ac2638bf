"""Run all benchmarks that compare, one after another, and put what they found into docs/benchmarks.md.

    python benchmarks                 # the long form: hours, and much memory
    python benchmarks --short         # all of them in at most a quarter of an hour on two quiet cores: `make bench`
    python benchmarks --short write   # some

Each script writes `benchmarks/results/NAME-SIZE.json`, with every turn, and a table beside it. The docs show one line
for each peer. A script that fails or is missing is said so, and the others run.
"""

import argparse
import compileall
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from timing import ROOT, put_between, summary

RESULTS, DOCS = HERE / "results", ROOT / "docs" / "benchmarks.md"
#: In this order; others that compare follow.
FIRST = (
    "published", "kmeans", "heads", "label_issues", "embedding", "duplicates", "write", "fixed_costs", "scale",
)  # fmt: skip


def there() -> list[str]:
    """Return the names of the scripts that compare: those that take their turns from `timing`."""
    names = [path.stem for path in sorted(HERE.glob("*.py")) if "import arguments" in path.read_text()]
    names.remove(Path(__file__).stem)
    return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]


def run(name: str, size: str, folder: Path, minutes: float) -> str | None:
    """Run one script; return what went wrong, or None."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(folder / f"{name}-{size}.json")]
    command += [f"--{size}"] if size != "long" else []
    print(f"=== {name}", flush=True)
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=60 * minutes, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"it was not done after {minutes:g} minutes"
    return f"it ended with {code}" if code else None


def main(given: list[str] | None = None) -> int:
    """Run the scripts, print the summary, rewrite the docs; return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="which scripts; all by default")
    parser.add_argument("--short", dest="size", action="store_const", const="short", default="long")
    parser.add_argument("--toy", dest="size", action="store_const", const="toy", help="docs stay as they are")
    parser.add_argument("--minutes", type=float, help="for each script (5 short, 300 long)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(given)
    names, limit = there(), options.minutes or {"long": 300}.get(options.size, 5)
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(names)}")
    compileall.compile_dir(ROOT / "curate", quiet=2)
    began, failed = time.monotonic(), {}
    for name in options.names or names:
        if reason := run(name, options.size, options.results, limit):
            failed[name] = reason
    if not options.names:
        failed |= {name: "there is no such script" for name in FIRST if name not in names}
    records = [
        json.loads(path.read_text()) for path in sorted(options.results.glob(f"*-{options.size}.json"))
    ]
    order = {name: place for place, name in enumerate(names)}
    table = summary(sorted(records, key=lambda record: order.get(record["benchmark"], len(order))))
    print(table)
    if options.size != "toy":
        put_between(DOCS, options.size, table)
    print(f"{len(records)} benchmarks, {(time.monotonic() - began) / 60:.1f} minutes")
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return int(any(reason != "there is no such script" for reason in failed.values()))


if __name__ == "__main__":
    sys.exit(main())
