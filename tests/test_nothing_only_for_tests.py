"""Everything public in curate has a use outside the tests: code that only tests call is deleted, or made a test's own."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "curate"
#: Where a use counts: the package, and what ships or is run beside it.
USERS = ("curate", "flows", "benchmarks", "data")
PROSE = ("README.md", "docs", "flows/README.md", "data/README.md")

#: What is called by name from outside, and by what.
CALLED_FROM_OUTSIDE = {
    "curate.io.retries.RetryingFile.readall": "readers of file objects",
    "curate.io.retries.RetryingFile.readinto": "readers of file objects",
    "curate.sources.text.encoding._Recoded.readinto": "readers of file objects",
    "curate.sources.addresses._Handler.http_open": "urllib",
    "curate.sources.addresses._Handler.https_open": "urllib",
    "curate.cli.app._Grouped.format_commands": "the help of Typer",
}
#: Decorators whose functions are called by what decorates them.
CALLED_BY_DECORATOR = ("validator", "serializer", "app.command", "app.callback", "overload")
#: Where a class with a base class is found by what lists the classes of a kind: scores, methods, weights.
FOUND_BY_REGISTRY = ("curate.scores.", "curate.selection.", "curate.weighting.")


def decorated(node):
    names = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
    return any(word in name for name in names for word in CALLED_BY_DECORATOR)


def bases(node):
    return {ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases}


def definitions(path, module):
    """Yield (dotted name, name) of every public function, class, method and constant that a module defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not decorated(node):
            names = [node.name]
        else:
            continue
        listed = isinstance(node, ast.ClassDef) and bases(node) and module.startswith(FOUND_BY_REGISTRY)
        if not listed:
            yield from ((f"{module}.{name}", name) for name in names if not name.startswith("_"))
        if isinstance(node, ast.ClassDef) and not bases(node) & {"Protocol"}:
            for inner in node.body:
                if (
                    isinstance(inner, ast.FunctionDef)
                    and not inner.name.startswith("_")
                    and not decorated(inner)
                ):
                    yield f"{module}.{node.name}.{inner.name}", inner.name


def words(text):
    return re.findall(r"[A-Za-z_]\w*", text)


def uses(path):
    """Count every name that a file reads, imports or has in a string that is no docstring; __all__ does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skip = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(ast.unparse(one) == "__all__" for one in node.targets):
            skip |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword | ast.alias):
            yield from words((node.arg if isinstance(node, ast.keyword) else node.name) or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from words(node.value)


def unused(root):
    """Return the dotted names of what nothing but tests (or nothing at all) uses."""
    used = set()
    for folder in USERS:
        for path in (root / folder).rglob("*.py"):
            used |= set(uses(path))
    for pattern in ("*.html", "*.js", "*.yaml"):
        for path in (root / "curate").rglob(pattern):
            used |= set(words(path.read_text(encoding="utf-8")))
    for name in PROSE:
        for path in sorted((root / name).rglob("*.md")) if (root / name).is_dir() else [root / name]:
            used |= set(words(path.read_text(encoding="utf-8"))) if path.exists() else set()
    found = set()
    for path in (root / "curate").rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found |= {dotted for dotted, name in definitions(path, module) if name not in used}
    return found


def test_the_check_finds_what_only_tests_use(tmp_path):
    (tmp_path / "curate").mkdir()
    (tmp_path / "curate" / "a.py").write_text(
        '"""used_nowhere is only mentioned."""\n__all__ = ["used_nowhere"]\n'
        "LIMIT = 1\nSIZE = 2\n\ndef used_nowhere():\n    return SIZE\n\n"
        "class Row:\n    def key(self):\n        return 1\n\n    def lost(self):\n        return self.key()\n\n"
        "class Shape(Protocol):\n    def area(self): ...\n\n"
        "def make():\n    return Row()\n"
    )
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "b.py").write_text("from curate.a import make\n\ndef f(x: Shape): ...\n")
    found = {"curate.a.LIMIT", "curate.a.used_nowhere", "curate.a.Row.lost"}
    assert unused(tmp_path) == found


def test_nothing_is_there_for_tests_alone():
    found = unused(ROOT) - CALLED_FROM_OUTSIDE.keys()
    assert sorted(found) == [], "used by tests alone, or by nothing"
