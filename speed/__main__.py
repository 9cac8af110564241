"""Measures time and memory, each item in a process of its own: reports/speed.json, its figure, README.md's tables.

python -m speed [--print] [ITEM ...]    (without ITEM all but growth and gpu; other items keep their numbers. --print
writes nothing, and neither does gpu without a GPU)
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch

from pacl.figures import charts
from pacl.runtime.config import project_root
from pacl.runtime.files import read_json, write_atomically
from speed import cost, tables
from speed.measuring import in_own_process, machine

ITEMS = ("compatibility", "dense_inference", "evaluation", "features", "epoch", "startup")
ON_REQUEST = ("growth", "gpu")  # they take long, or need a GPU


def main(names: list[str], *, write: bool = True) -> None:
    """Raises ValueError for an unknown item."""
    known = (*ITEMS, *ON_REQUEST)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no item {unknown[0]}: name some of {', '.join(known)}, or none for most of them.")
    write = write and not (names == ["gpu"] and not torch.cuda.is_available())
    reports = project_root() / "reports"
    items = read_json(reports / "speed.json", "items")["items"] if names and write else {}
    for item in names or ITEMS:
        print(f"{item} ...", flush=True)
        items[item] = {"machine": machine(), **in_own_process(import_module(f"speed.{item}").measure)}
        print(tables.text(items[item]["rows"]), flush=True)
    if "gpu" in names and not torch.cuda.is_available():
        print(
            "There is no GPU here: this was a small form on the CPU, which tests the script. The GPU is not measured."
        )
        items.pop("gpu", None)
    if write:
        publish(joined(items), reports, Path(__file__).with_name("README.md"))


def joined(items: dict) -> dict:
    """The items in order, and what training costs if the items it follows from were measured on one processor."""
    results = {"items": {item: items[item] for item in (*ITEMS, *ON_REQUEST) if item in items}}
    processors = {items[item]["machine"]["processor"] for item in cost.ITEMS if item in items}
    if len(processors) == 1 and set(cost.ITEMS) <= items.keys():
        results["cost"] = cost.table(cost.rates(items))
    return results


def publish(results: dict, reports: Path, readme: Path) -> None:
    """Writes speed.json, speed.png and the tables in readme."""
    write_atomically(reports / "speed.json", json.dumps(results, indent=1) + "\n")  # six decimals are too few here
    charts.use_style()
    charts.save(tables.figure(results), reports / "speed.png", dpi=150)
    tables.fill(readme, tables.readme_tables(results))


if __name__ == "__main__":
    try:
        given = sys.argv[1:]
        main([name for name in given if name != "--print"], write="--print" not in given)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
