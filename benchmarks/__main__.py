"""Runs all benchmarks, each in a process of its own: reports/benchmarks.json, its figure, and README.md's tables.

python -m benchmarks
"""

import importlib
import importlib.util
import json
from pathlib import Path

import torch

from benchmarks import cost, tables
from benchmarks.features import operations
from benchmarks.measuring import in_own_process, machine, product_rate, row
from pacl import plots
from pacl.config import project_root

ITEMS = ("compatibility", "dense_inference", "evaluation", "features", "epoch", "startup")
DENSE_TARGETS = {"seconds": 0.45, "gigabytes": 0.25}


def measured(item: str) -> dict:
    """What a benchmark measures, as rows."""
    result = importlib.import_module(f"benchmarks.{item}").measure()
    if item != "dense_inference":
        return result
    torch.set_num_threads(1)  # a processor second's rate for the floor
    return dense_rows(result, product_rate())


def dense_rows(result: dict, rate: float) -> dict:
    """The row of dense_inference, which compares shifted passes with a joint one in its own form; processor seconds."""
    size, stride, patch = result["size"], result["stride"], 16
    variants = {"ours": result["shifted"], "plain": result["joint"]}
    floor = (patch // stride) ** 2 * operations((size // patch) ** 2 + 1)
    dense = row(
        f"ViT-B/16's tokens of {size} x {size} pixels, one every {stride}, in shifted passes",
        {name: of["processor_seconds"] for name, of in variants.items()},
        against="one joint pass",
        gigabytes={name: of["gigabytes"] for name, of in variants.items()},
        targets=DENSE_TARGETS,
        floor_seconds=floor / rate,
        floor="the operations of the passes, one for each shift, at a large matrix product's rate",
    )
    return {"threads": result["threads"], "rows": [dense]}


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
