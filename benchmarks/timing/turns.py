"""Let contenders run in turns, A B A B, and note what each turn took."""

import compileall
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from timing.child import called, processor
from timing.contender import CHILD, CURATE, ROOT, Contender

#: Seconds between two looks at the memory of a contender.
EVERY = 0.05


@dataclass(frozen=True)
class Turn:
    """What one turn took: processor and wall seconds, the peak of private memory in bytes, and what came out."""

    processor: float
    wall: float
    memory: int
    facts: dict[str, Any]


@dataclass
class Comparison:
    """The turns of all contenders. `ours` is the name of the first; `skipped` says why others did not run."""

    name: str
    ours: str
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    #: What the ratio of a contender should at least be, by its name; shown beside it.
    targets: dict[str, float] = field(default_factory=dict)

    def ratios(self, other: str, of: str = "processor") -> list[float]:
        """Return the seconds of another contender divided by ours, pair by pair."""
        pairs = zip(self.turns[other], self.turns[self.ours], strict=True)
        return [getattr(theirs, of) / max(getattr(mine, of), 1e-9) for theirs, mine in pairs]


class _FailedError(Exception):
    """A contender ended with an error; the text is the last thing it said."""


def compare(
    name: str,
    ours: Contender,
    others: Sequence[Contender],
    pairs: int,
    *,
    warm: bool = False,
    targets: dict[str, float] | None = None,
) -> Comparison:
    """Run all contenders `pairs` times in turns and return what they took; prints a line for each turn.

    One that fails is left out with its reason; ours must not fail. `warm` runs each once before, without counting.
    """
    found = Comparison(name, ours.name, targets=dict(targets or {}))
    running = []
    for one in (ours, *others):
        if isinstance(one.command, str):
            found.skipped[one.name] = one.command
        else:
            running.append(one)
    print(f"== {name}", flush=True)
    compileall.compile_dir(ROOT / "curate", quiet=2)
    for number in range(-int(warm), pairs):
        for one in list(running):
            try:
                turn = run(one)
            except _FailedError as error:
                if one is ours:
                    raise SystemExit(f"{one.name} failed: {error}") from None
                running.remove(one)
                found.turns.pop(one.name, None)
                found.skipped[one.name] = f"failed: {error}"
                continue
            _say(one.name, turn, number)
            if number >= 0:
                found.turns.setdefault(one.name, []).append(turn)
    for other in [name for name in found.turns if name != ours.name]:
        shown = ", ".join(f"{ratio:.2f}" for ratio in found.ratios(other))
        print(f"   {other} / {ours.name}: {statistics.median(found.ratios(other)):.2f} ({shown})", flush=True)
    for other, reason in found.skipped.items():
        print(f"   {other}: not run, {reason}", flush=True)
    return found


def run(contender: Contender) -> Turn:
    """Let one contender run once, in a fresh process."""
    for path in contender.fresh:
        _remove(path)
    if os.environ.get("TIMING_INSIDE") and contender.command[0] == sys.executable:
        return _inside(contender)
    with tempfile.TemporaryDirectory() as scratch:
        result, said = Path(scratch, "result.json"), Path(scratch, "said")
        environment = {**os.environ, **contender.environment, "TIMING_RESULT": str(result)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # its users have bytecode
        paths = [str(ROOT), str(ROOT / "benchmarks"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        began = time.perf_counter()
        with said.open("w") as output:
            process = subprocess.Popen(
                list(contender.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
            watched = _Memory(process.pid)
            busy = _wait(process)
        wall = time.perf_counter() - began
        memory = watched.stop()
        if process.returncode != 0:
            raise _FailedError(_last_words(said.read_text(errors="replace"), process.returncode))
        inner = json.loads(result.read_text()) if result.exists() else {}
    facts = {**(contender.facts() if contender.facts else {}), **inner.get("facts", {})}
    if inner and not contender.whole:
        busy, wall = inner["processor"], inner["wall"]
    return Turn(busy, wall, memory, facts)


def _inside(contender: Contender) -> Turn:
    """Let one contender run in this process: tests see that it runs, and import everything once."""
    words, busy, began = list(contender.command), processor(), time.perf_counter()
    if words[1] == str(CHILD):
        inner = called(*words[2:])
    elif tuple(words[: len(CURATE)]) == CURATE:
        _command(words[len(CURATE) :])
        inner = {"processor": processor() - busy, "wall": time.perf_counter() - began, "facts": {}}
    else:
        raise _FailedError("it runs in processes of its own only")
    facts = {**(contender.facts() if contender.facts else {}), **inner["facts"]}
    return Turn(inner["processor"], inner["wall"], 0, facts)


def _command(words: list[str]) -> None:
    from curate.cli import main

    before, sys.argv = sys.argv, ["curate", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise _FailedError(f"curate ended with {end.code}") from None
    finally:
        sys.argv = before


def _wait(process: "subprocess.Popen[bytes]") -> float:
    """Wait for a process and return the processor seconds of it and of the children it waited for."""
    try:
        _, status, used = os.wait4(process.pid, 0)
    except BaseException:
        with contextlib.suppress(psutil.Error):
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


class _Memory:
    """The peak of the private memory of a process and its children together, looked at from a thread."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                parent = psutil.Process(self._pid)
                self._peak = max(
                    self._peak, sum(map(private_memory, [parent, *parent.children(recursive=True)]))
                )
            except psutil.Error:
                continue

    def stop(self) -> int:
        """End looking and return the peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak


def private_memory(process: psutil.Process) -> int:
    """Return the bytes that a process holds for itself; files that it maps count for nobody."""
    try:
        if sys.platform != "linux":
            return int(process.memory_full_info().uss)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return 1024 * int(line.split()[1])
    except (OSError, psutil.Error):
        pass
    return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _last_words(text: str, code: int) -> str:
    """Return the last line that says something, and the exit status."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else 'it said nothing'} (exit status {code})"


def _say(name: str, turn: Turn, number: int) -> None:
    facts = "".join(f", {key} {_short(value)}" for key, value in turn.facts.items())
    print(
        f"   {'warm-up' if number < 0 else number + 1}: {name}: {turn.processor:.2f} s of processor, "
        f"{turn.wall:.2f} s, {turn.memory / 1e6:,.0f} MB{facts}",
        flush=True,
    )


def _short(value: Any) -> str:  # noqa: ANN401  (what a contender says)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
