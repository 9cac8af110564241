"""The architecture as the imports show it: rooms that import downwards only, no circle, no name that isn't there."""

import ast
import importlib
from graphlib import TopologicalSorter

import pytest
from helpers.imports import MODULES, ROOT, imports, parse

METHOD = "the method"  # the files at the root of pacl/
# Each floor imports those before it.
FLOORS = ["runtime", "data", "clip", METHOD, "sources", "training", "evaluation", "tools"]
BESIDE = {"figures": {"runtime"}, "report": {"runtime", "figures"}}  # what the rooms next to the floors may import
ABOVE_ALL = {"tools": {"figures", "report"}}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if (ROOT / "pacl" / parts[1]).is_dir() else METHOD


def defined(module: str) -> set[str]:
    """The names at a module's top level, imported ones included."""
    names = {"__doc__", "__name__"}
    for node in parse(MODULES[module]).body:
        names |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
        names |= {t.id for t in ast.walk(node) if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)}
        names |= {a.asname or a.name for a in getattr(node, "names", []) if isinstance(a, ast.alias)}
    return names


def is_there(module: str, name: str) -> bool:
    """Whether a module has a name, or the `__getattr__` of a lazy one finds it."""
    names = defined(module)
    return name in names or "__getattr__" in names and hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"pacl"}))
def test_a_room_imports_only_what_is_below_it(module):
    room = room_of(module)
    below = BESIDE[room] if room in BESIDE else {*FLOORS[: FLOORS.index(room)], *ABOVE_ALL.get(room, ())}
    found = {room_of(other) for other, _ in imports(MODULES[module]) if other != "pacl"}
    assert found <= below | {room}, f"{module} imports from {', '.join(sorted(found - below - {room}))}"


def test_there_is_no_circle():
    graph = {module: {other for other, _ in imports(path)} - {module} for module, path in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(MODULES) <= set(order)


@pytest.mark.parametrize("path", [*MODULES.values(), *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_imported_name_is_there(path):
    for module, name in imports(path):
        assert module in MODULES, f"{path.name} imports {module}, which is not there"
        assert not name or is_there(module, name), f"{path.name} imports {name} from {module}, which lacks it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_attribute_of_a_module_that_a_notebook_uses_is_there(path):
    """`charts.save` where the notebook has imported pacl.figures.charts."""
    tree, modules = parse(path), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pacl":
            for alias in node.names:
                if f"{node.module}.{alias.name}" in MODULES:
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert is_there(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr} in {path.name}"


def test_each_folder_of_the_library_says_in_a_sentence_what_it_is():
    for path in (ROOT / "pacl").rglob("__init__.py"):
        assert ast.get_docstring(parse(path)), f"{path.parent.relative_to(ROOT)}/__init__.py needs a docstring"
