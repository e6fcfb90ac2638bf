"""Packages stand in one order, each importing only those before it; no circles; pure packages touch no files."""

import ast
import functools
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "curate"

#: The packages (and single modules) of curate. Each imports only those before it.
ORDER = (
    "errors", "hashing", "linalg", "process", "products", "progress", "plugins", "schema", "settings", "io", "sources", "runs", "overrides",
    "execution",
    "embedding", "clustering", "deduplication", "ordering", "scores", "filtering", "selection", "weighting", "recipe",
    "writers", "report", "retrieval", "analysis", "pipeline", "evaluation", "training", "review", "api", "torch", "cli",
)  # fmt: skip
#: Outside the order: what users import, and `python -m curate`.
ROOT_MODULES = ("curate", "curate.__main__")

#: Packages of numbers and text: they neither open files nor import what does.
PURE = (
    "errors", "hashing", "linalg", "schema", "settings", "clustering", "deduplication", "ordering", "selection", "report", "retrieval",
)  # fmt: skip
#: Modules (and folders) of pure packages that read the tables of a run all the same.
READS_TABLES = ("clustering/store.py", "selection/rows/")
#: Tools, and the packages that may import them; prefect is for flows alone.
TOOLS = {
    "prefect": (),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("api", "cli"),
    "ray": ("execution",),
    "starlette": ("review",),
    "uvicorn": ("review",),
}
READS_FILES = ("read_", "scan_", "write_", "sink_")
HEAVY = ("torch", "open_clip", "faiss", "ray", "prefect", "polars", "pyarrow", "sklearn", "scipy", "plotly")

MOST_AT_THE_TOP = 10
MOST_IN_A_FOLDER = 15
#: Folders of one file per thing (a score, a method, a command, a stage): they grow with what there is.
ONE_PER_THING = {"scores", "selection", "cli", "sources", "pipeline/stages", "scores/heads"}
#: Modules that import another one of their own name, and why. A command, or a verb, may have the name of what it calls.
SAME_NAME = {
    "curate.recipe -> curate.recipe.recipe": "the package offers what its modules define",
    "curate.analysis.verify.verify -> curate.analysis.verify": "the package offers the tables and the check of all invariants",
    "curate.analysis.summary.groups -> curate.report.groups": "counts of rows, and how they are merged",
    "curate.pipeline.stages.drift -> curate.clustering.drift": "the stage's part, and the formula",
    "curate.pipeline.stages.user_clusters -> curate.clustering.user_clusters": "the stage's part, and the checks",
    "curate.sources.settings -> curate.settings": "settings of sources are of the kinds of all settings",
    "curate.deduplication.in_memory -> curate.clustering.in_memory": "both on arrays; duplicates within concepts",
    "curate.scores.pixels.training -> curate.scores.heads.training": "networks on pixels train as heads do",
}


def imports(path):
    """Return every module that a file imports anywhere in it, as dotted names; not those for types only.

    ``import_module("a.b")`` counts, and ``import_module(f"a.{name}")`` as ``a.*``.
    """
    return imports_in(path, path.read_text(encoding="utf-8"))


@functools.cache  # every check asks for those of the whole package
def imports_in(path, text):
    return tuple(found_in(path, ast.parse(text)))


def found_in(path, tree):
    skip = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skip |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield name.value
            elif isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
                yield f"{name.values[0].value}*"


def graph(package):
    """Return {module: modules of the package that it imports}."""
    root = package.parent
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    edges = {module: set() for module in paths}
    for module, path in paths.items():
        for name in imports(path):
            if name.endswith("*"):
                edges[module] |= {other for other in paths if other.startswith(name[:-1])}
            elif name in paths:
                edges[module].add(name)
            elif name.rpartition(".")[0] in paths:
                edges[module].add(name.rpartition(".")[0])
        edges[module].discard(module)
    return edges


def circles(edges):
    """Return the strongly connected components of more than one module (Tarjan), each sorted."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return sorted(found)


def package_of(module):
    return module.split(".")[1]


def backward(edges, order):
    """Return every import of a package that stands later in the order, as "module -> module"."""
    return [
        f"{module} -> {other}"
        for module in sorted(edges)
        for other in sorted(edges[module])
        if module not in ROOT_MODULES
        and (other in ROOT_MODULES or order.index(package_of(other)) > order.index(package_of(module)))
    ]


@pytest.fixture(scope="module")
def edges():
    return graph(PACKAGE)


def pure_modules():
    for name in PURE:
        for path in [*sorted((PACKAGE / name).rglob("*.py")), PACKAGE / f"{name}.py"]:
            if path.exists() and not path.relative_to(PACKAGE).as_posix().startswith(READS_TABLES):
                yield path


def made(tmp_path, **files):
    """Write a package `p` with these modules."""
    (tmp_path / "p").mkdir()
    for name, text in files.items():
        (tmp_path / "p" / f"{name}.py").write_text(textwrap.dedent(text))
    return graph(tmp_path / "p")


def test_the_check_sees_every_kind_of_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import os\ndef f():\n    from curate.pipeline.stages import read\n    import prefect.flows\n"
    )
    assert list(imports(file)) == ["os", "curate.pipeline.stages.read", "prefect.flows"]
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import faiss\n"
    )
    assert list(imports(file)) == ["typing.TYPE_CHECKING", "faiss"]
    file.write_text("import_module('p.a')\nimportlib.import_module(f'p.{name}')\n")
    assert list(imports(file)) == ["p.a", "p.*"]


def test_the_check_sees_circles(tmp_path):
    edges = made(
        tmp_path,
        a="from p.b import x",
        b="def f():\n    import p.c",
        c="import importlib\nimportlib.import_module(f'p.{name}')",
        d="from p import a",
        e="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.f",
        f="import p.e",
    )
    assert circles(edges) == [["p.a", "p.b", "p.c", "p.d"]]


def test_the_check_sees_backward_imports(tmp_path):
    edges = made(tmp_path, a="import p.c", b="import p.a", c="")
    assert backward(edges, ("a", "b", "c")) == ["p.a -> p.c"]


def test_every_module_has_a_place_in_the_order():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__pycache__", "__init__", "__main__", "py"} <= set(ORDER)


def test_packages_import_only_those_before_them(edges):
    found = {}
    for pair in backward(edges, ORDER):
        module, _, other = pair.partition(" -> ")
        found.setdefault(f"{package_of(module)} -> {package_of(other)}", []).append(pair)
    assert found == {}


def test_modules_import_each_other_in_no_circle(edges):
    assert circles(edges) == []


def test_folders_are_small_enough_to_read():
    counts = Counter(
        str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
    )
    assert counts.pop(".") + 1 <= MOST_AT_THE_TOP
    large = {name: n for name, n in counts.items() if n > MOST_IN_A_FOLDER and name not in ONE_PER_THING}
    assert large == {}


def test_no_module_imports_another_of_its_own_name(edges):
    found = {
        f"{module} -> {other}"
        for module in edges
        for other in edges[module]
        if module.rpartition(".")[2] == other.rpartition(".")[2] and package_of(module) not in ("cli", "api")
    }
    assert found <= SAME_NAME.keys()


def breaches(paths, forbidden):
    """Return file: import for every import of something that begins with a forbidden name."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imports(path)
        for ban in forbidden
        if name == ban or name.startswith(f"{ban}.")
    ]


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_stay_where_they_belong(tool):
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in TOOLS[tool]]
    assert len(paths) > 100
    assert breaches(paths, [tool]) == []


def test_collecting_tests_loads_no_slow_library_that_few_need():
    """Every process of `make test` imports every test file: slow libraries are imported by the tests that use them."""
    slow = ("sklearn", "prefect", "ray", "moto", "datasets", "playwright", "deltalake", "pyiceberg")
    files = [path for path in (ROOT / "tests").rglob("*.py") if "plugin" not in path.parts]
    assert len(files) > 100
    found = []
    for path in files:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
        for node in statements:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in slow]
    assert found == []


def test_only_the_command_line_imports_flows():
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli"]
    assert breaches(paths, ["flows", "curate.flows"]) == []


def test_pure_packages_import_nothing_that_opens_files():
    paths = list(pure_modules())
    assert len(paths) > 12
    edges = [
        f"curate.{name}"
        for name in ("io", "sources", "runs", "overrides", "execution", "embedding", "writers", "pipeline")
    ]
    assert breaches(paths, [*edges, "fsspec", "torch", "pyarrow.parquet"]) == []


def test_pure_packages_read_and_write_no_files():
    found = []
    for path in pure_modules():
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


def loaded_after(*codes):
    """Return which heavy modules one new interpreter has loaded after each of some pieces of code."""
    told = f"\nimport sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])\n"
    code = "".join(textwrap.dedent(code) + told for code in codes)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert len(lines) == len(codes)
    return [line.split()[1:] for line in lines]


def command(arguments, code):
    return f"""
        from curate.cli import main
        try:
            main({arguments})
        except SystemExit as end:
            assert end.code == {code}, end.code
    """


def test_importing_curate_help_and_first_errors_are_cheap():
    after = loaded_after(
        "import curate; assert curate.__all__",
        "import curate; curate.CurateError; curate.Recipe",
        command(["--help"], 0),
        command(["run", "--help"], 0),
        command(["run", "no-such-recipe.yaml"], 2),
    )
    assert after == [[]] * 5


def test_running_on_own_vectors_needs_no_torch(tmp_path):
    from tests.fixtures.builders import planted, recipe_values, write_shards

    glob = write_shards(tmp_path / "in", planted(60))
    code = f"""
import curate
from curate.recipe.loading import parse_recipe
curate.run(parse_recipe({recipe_values(glob, tmp_path / "run")!r}))
"""
    assert not {"torch", "open_clip", "prefect", "ray"} & set(loaded_after(code)[0])
