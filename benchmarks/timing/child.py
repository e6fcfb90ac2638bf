"""Call one function of a script and write what it took: `child.py SCRIPT FUNCTION KEYWORDS` (standard library alone)."""

import importlib.util
import inspect
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def processor() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def finish(steps: Any) -> Any:  # noqa: ANN401  (a generator)
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def main(script: str, function: str, keywords: str) -> None:
    """Call the function and write seconds and facts to $TIMING_RESULT."""
    sys.path[0] = str(Path(script).resolve().parent)
    Path(os.environ["TIMING_RESULT"]).write_text(json.dumps(called(script, function, keywords)))


def called(script: str, function: str, keywords: str) -> dict[str, Any]:
    """Load the script under its own name, prepare, call; return seconds and facts."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    work, given = getattr(module, function), json.loads(keywords)
    steps = None
    if inspect.isgeneratorfunction(work):
        steps = work(**given)
        next(steps)
    busy, began = processor(), time.perf_counter()
    facts = work(**given) if steps is None else finish(steps)
    return {"processor": processor() - busy, "wall": time.perf_counter() - began, "facts": facts or {}}


if __name__ == "__main__":
    main(*sys.argv[1:])
