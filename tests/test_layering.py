"""Imports point inwards only: pure <- edges <- stages <- flows and command line; and stay cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "curate"
PURE = (
    "cluster",
    "dedup",
    "score",
    "select",
    "weight",
    "report",
    "identity",
    "schema",
    "errors",
    "differences",
)
EDGES = (
    "storage",
    "seals",
    "home",
    "sources",
    "sinks",
    "embed",
    "train",
    "runs",
    "lock",
    "logs",
    "undo",
    "engines",
    "progress",
    "facts",
)
OUTER = (
    "stages",
    "pipeline",
    "limited",
    "rescore",
    "retry",
    "export",
    "explain",
    "plan",
    "cli",
    "flows",
    "verify",
    "laws",
    "diff",
    "store",
    "gc",
    "search",
    "notebook",
    "demo",
    "estimate",
    "__main__",
    "torch",
)
TOOLS = ("prefect", "typer", "click", "rich", "ray")
READS_FILES = ("read_", "scan_", "write_", "sink_")
HEAVY = ("torch", "open_clip", "faiss", "ray", "prefect", "polars", "pyarrow", "sklearn", "scipy", "plotly")


def modules(*names):
    """Every file of the packages (or modules) of `curate` with these names."""
    for name in names:
        yield from sorted((PACKAGE / name).rglob("*.py"))
        if (PACKAGE / f"{name}.py").exists():
            yield PACKAGE / f"{name}.py"


def imports(path, *, typing=False):
    """Every module a file imports, anywhere in it, as dotted names; not those for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skip = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            skip |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(paths, forbidden):
    """Return file: import for every import of something that begins with a forbidden name."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imports(path)
        for ban in forbidden
        if name == ban or name.startswith(f"{ban}.")
    ]


def test_the_check_sees_a_breach(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import os\ndef f():\n    from curate.pipeline.stages import read\n    import prefect.flows\n"
    )
    assert [name for name in imports(file)] == ["os", "curate.pipeline.stages.read", "prefect.flows"]
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import faiss\n"
    )
    assert list(imports(file)) == ["typing.TYPE_CHECKING", "faiss"]


def test_every_module_has_a_layer():
    known = {*PURE, *EDGES, *OUTER, "config", "settings", "redact", "__init__", "data"}
    assert {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()} - {
        "__pycache__"
    } <= known


def test_pure_packages_import_no_edges():
    assert len(list(modules(*PURE))) > 12
    outward = [f"curate.{name}" for name in (*EDGES, *OUTER, "config", "settings")]
    assert breaches(modules(*PURE), [*outward, *TOOLS, "fsspec", "torch", "pyarrow.parquet"]) == []


def test_pure_packages_read_and_write_no_files():
    found = []
    for path in modules(*PURE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "open":
                found.append(f"{path.name}: open")
            if isinstance(node.func, ast.Attribute):
                owner, name = ast.unparse(node.func.value), node.func.attr
                if (owner in ("pl", "np", "pq") and name.startswith(READS_FILES)) or name == "write_bytes":
                    found.append(f"{path.name}: {owner}.{name}")
                if owner in ("np", "faiss") and name in ("load", "save", "savez", "memmap"):
                    found.append(f"{path.name}: {owner}.{name}")
    assert found == []


def test_edges_import_nothing_from_outside():
    outward = [f"curate.{name}" for name in OUTER]
    assert breaches(modules(*EDGES, "config"), [*outward, "prefect", "typer", "click", "rich"]) == []


def test_stages_import_neither_orchestration_nor_command_line():
    assert breaches(modules("stages", "pipeline"), ["curate.cli", "flows", "curate.flows", *TOOLS]) == []
    assert breaches(modules("stages"), ["curate.pipeline.runner"]) == []


def test_only_flows_know_prefect():
    assert breaches(PACKAGE.rglob("*.py"), ["prefect"]) == []


def loaded_after(code):
    """Return which heavy modules a new interpreter has loaded after running some code."""
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split() if done.stdout.strip() else []


def test_importing_curate_is_cheap():
    assert loaded_after("import curate; assert curate.__all__") == []
    assert loaded_after("import curate; curate.CurateError; curate.Recipe") == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "no-such-recipe.yaml"]])
def test_help_and_first_errors_are_cheap(arguments):
    code = f"""
        from curate.cli import main
        try:
            main({arguments})
        except SystemExit as end:
            assert end.code == {0 if "--help" in arguments else 2}, end.code
    """
    import textwrap

    assert loaded_after(textwrap.dedent(code)) == []


def test_running_on_own_vectors_needs_no_torch(tmp_path):
    from builders import planted, recipe_values, write_shards

    glob = write_shards(tmp_path / "in", planted(60))
    code = f"""
import curate
from curate.recipe.loading import parse_recipe
curate.run(parse_recipe({recipe_values(glob, tmp_path / "run")!r}))
"""
    assert not {"torch", "open_clip", "prefect", "ray"} & set(loaded_after(code))
