"""Runs all benchmarks, each in a process of its own: reports/benchmarks.json, its figure, and README.md's tables.

python -m benchmarks
"""

import importlib.util
import json
from pathlib import Path

from benchmarks import cost, tables
from benchmarks.items import measured
from benchmarks.measuring import in_own_process, machine
from pacl import plots
from pacl.config import project_root

ITEMS = ("compatibility", "dense_inference", "evaluation", "features", "epoch", "startup")


def main() -> None:
    results, reports = {"machine": machine(), "items": {}}, project_root() / "reports"
    for item in filter(lambda item: importlib.util.find_spec(f"benchmarks.{item}"), ITEMS):
        print(f"{item} ...", flush=True)
        results["items"][item] = in_own_process(measured, item)
        print(tables.text(results["items"][item]["rows"]), flush=True)
    results["cost"] = cost.table(cost.rates(results["items"]))
    publish(results, reports, Path(__file__).with_name("README.md"))


def publish(results: dict, reports: Path, readme: Path) -> None:
    """Writes benchmarks.json, benchmarks.png and the tables in readme."""
    reports.mkdir(parents=True, exist_ok=True)
    partial = reports / ".benchmarks.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(reports / "benchmarks.json")
    plots.use_style()
    plots.save(tables.figure(results), reports / "benchmarks.png", dpi=150)
    tables.fill(readme, tables.readme_tables(results))


if __name__ == "__main__":
    main()
