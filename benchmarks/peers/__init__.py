"""Environments for the tools of others that cannot share ours; `python benchmarks/peers` makes them."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from timing import ROOT

__all__ = ["ENVIRONMENTS", "interpreter", "make", "requirements"]

REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
ENVIRONMENTS = Path(os.environ.get("CURATE_PEERS", ROOT / ".peers"))


def requirements() -> dict[str, list[str]]:
    """Return what each environment is to have, by its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in REQUIREMENTS.read_text().splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            found[name] = []
        elif line and not line.startswith("#"):
            found[name].append(line)
    return found


def interpreter(package: str) -> tuple[str, str | None]:
    """Return the interpreter of the environment that has a package, and why it cannot be used, or None."""
    [name] = [name for name, lines in requirements().items() if any(one.startswith(package) for one in lines)]
    python, failed = ENVIRONMENTS / name / "bin" / "python", ENVIRONMENTS / f"{name}.failed"
    if (ENVIRONMENTS / f"{name}.ready").exists():
        return str(python), None
    if failed.exists():
        return str(python), f"{package} does not install here: {failed.read_text().strip()}"
    return str(python), "not installed: `python benchmarks/peers` makes its environment"


def make(name: str, minutes: float = 10) -> None:
    """Make one environment, unless it is there; note why where that fails."""
    home, ready = ENVIRONMENTS / name, ENVIRONMENTS / f"{name}.ready"
    failed = ready.with_suffix(".failed")
    if ready.exists():
        return
    failed.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", *requirements()[name]]
    if name == "over-ours":
        [site] = home.glob("lib/python*/site-packages")
        (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command += ["-c", str(ROOT / "constraints.txt")]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        failed.write_text(f"pip was not done after {minutes:g} minutes\n")
        return
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        failed.write_text((lines or ["pip failed"])[-1] + "\n")
    else:
        ready.touch()
