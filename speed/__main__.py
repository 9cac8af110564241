"""Runs all benchmarks or some, each in a process of its own: reports/benchmarks.json, its figure, README.md's tables.

python -m speed [ITEM ...]    (without ITEM all; the others keep what was measured before, wherever that was)
"""

import json
import sys
from pathlib import Path

from pacl.figures import charts
from pacl.runtime.config import project_root
from speed import cost, tables
from speed.items import measured
from speed.measuring import in_own_process, machine

ITEMS = ("compatibility", "dense_inference", "evaluation", "features", "epoch", "startup")


def main(names: list[str]) -> None:
    """Raises ValueError for an item that there isn't."""
    if unknown := [name for name in names if name not in ITEMS]:
        raise ValueError(f"there is no benchmark {unknown[0]}: name some of {', '.join(ITEMS)}, or none for all.")
    reports = project_root() / "reports"
    items = json.loads((reports / "speed.json").read_text(encoding="utf-8"))["items"] if names else {}
    for item in names or ITEMS:
        print(f"{item} ...", flush=True)
        items[item] = {"machine": machine(), **in_own_process(measured, item)}
        print(tables.text(items[item]["rows"]), flush=True)
    publish(joined(items), reports, Path(__file__).with_name("README.md"))


def joined(items: dict) -> dict:
    """The items in their order, and what training costs, if what that follows from was measured on one processor."""
    results = {"items": {item: items[item] for item in ITEMS if item in items}}
    processors = {items[item]["machine"]["processor"] for item in cost.ITEMS if item in items}
    if len(processors) == 1 and set(cost.ITEMS) <= items.keys():
        results["cost"] = cost.table(cost.rates(items))
    return results


def publish(results: dict, reports: Path, readme: Path) -> None:
    """Writes benchmarks.json, benchmarks.png and the tables in readme."""
    reports.mkdir(parents=True, exist_ok=True)
    partial = reports / ".benchmarks.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(reports / "speed.json")
    charts.use_style()
    charts.save(tables.figure(results), reports / "speed.png", dpi=150)
    tables.fill(readme, tables.readme_tables(results))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
