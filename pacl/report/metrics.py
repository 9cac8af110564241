"""report.metrics."""

import argparse
import math
from pathlib import Path

from pacl.runtime.files import read_json, write_json

PARTS = ("patch_alignment", "segmentation", "classification")  # stages that measure, keys of metrics.json


def write_metrics(folder: Path) -> dict:
    """Joins folder's patch_alignment.json, segmentation.json and classification.json into metrics.json.

    Raises FileNotFoundError naming the stage that writes a missing one.
    """
    for part in PARTS:
        if not (folder / f"{part}.json").is_file():
            raise FileNotFoundError(f"{folder / part}.json is missing: run the stage {part} (`dvc repro {part}`).")
    metrics = {part: read_json(folder / f"{part}.json") for part in PARTS}
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "headline.json", headline(metrics))
    return metrics


def headline(metrics: dict) -> dict:
    """The few numbers that `dvc metrics` and `dvc exp show` put side by side: patch accuracy, the first protocol's mIoU
    of each benchmark, mean classification accuracy, CLIP's and PACL's, fractions in [0, 1].
    """
    sets = list(metrics["classification"].values())
    found = {
        "patch accuracy": {m: v["accuracy"] for m, v in metrics["patch_alignment"].items() if "accuracy" in v},
        **{
            f"{benchmark} mIoU": {m: values["miou"] for m, values in next(iter(of_benchmark.values())).items()}
            for benchmark, of_benchmark in metrics["segmentation"].items()
        },
        "classification": {m: sum(of_set[m] for of_set in sets) / len(sets) for m in (sets[0] if sets else {})},
    }
    return {
        name: {method: of[method] for method in ("clip", "pacl", "ensemble") if method in of}
        for name, of in found.items()
        if of
    }


def leaves(tree, path: str = "") -> dict:
    """Every value of nested tables and lists by its dotted path."""
    if not isinstance(tree, (dict, list)):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        name: leaf
        for key, value in items
        for name, leaf in leaves(value, f"{path}.{key}" if path else str(key)).items()
    }


def gap(old, new) -> float:
    """How far two values are apart: 0 for equal ones (also NaN), infinite for unequal ones that aren't both numbers."""
    if old == new or (old != old and new != new):
        return 0.0
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in (old, new)
    )
    return abs(new - old) if numbers else math.inf


def compare(old: dict, new: dict, tolerance: float) -> tuple[list[str], bool]:
    """Lines on how two metrics.json differ, and whether they have values, all in both and within the tolerance."""
    before, after = leaves(old), leaves(new)
    gaps = {path: gap(before[path], after[path]) for path in before if path in after}
    lines = [f"{path} is only in the old file." for path in before if path not in after]
    lines += [f"{path} is only in the new file." for path in after if path not in before]
    too_far = sorted((path for path in gaps if gaps[path] > tolerance + 1e-9), key=gaps.get, reverse=True)
    lines += [f"{path}: {before[path]} -> {after[path]}, more than {tolerance} apart." for path in too_far]
    within = bool(gaps) and not lines
    if gaps:
        path = max(gaps, key=gaps.get)
        lines.append(
            f"Largest difference of {len(gaps)} values: {gaps[path]:.6f}, {path} ({before[path]} -> {after[path]})."
        )
    return lines, within


def as_tolerance(text: str) -> float:
    """A difference that may pass, as the command line gives it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no tolerance: write a finite number from 0 on.")
    return value


def read_metrics(path: Path):
    """A metrics.json. Raises FileNotFoundError, or ValueError for what can't be read."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}): name a metrics.json.") from None


def compare_files(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pacl.report compare", description="Compares two metrics.json.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=as_tolerance, default=0.02, help="largest difference that passes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    lines, within = compare(read_metrics(options.old), read_metrics(options.new), options.tolerance)
    print("\n".join(lines) or f"Neither {options.old} nor {options.new} holds a value: name two metrics.json.")
    return 0 if within else 1
