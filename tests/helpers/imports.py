"""The imports of the library's modules and of the notebooks, as their sources say them."""

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "pacl").rglob("*.py")
}


@functools.cache
def parse(path: Path) -> ast.Module:
    """A module, or a notebook's code cells without IPython's % and ! lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    return ast.parse(text, str(path))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of pacl, functions included; a module's own import has the name ""."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "pacl")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pacl":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (node.module, alias.name)
