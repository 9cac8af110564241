"""Joins the stages' numbers into metrics.json, and compares the numbers of two runs."""

import math

from pacl.report.results import Results
from pacl.runtime.files import write_json


def write_metrics(results: Results) -> dict:
    """Writes metrics.json, the numbers of the three measuring stages, and headline.json.

    Raises FileNotFoundError naming the stage whose numbers are missing.
    """
    for stage, measured in results.metrics.items():
        if measured is None:
            path = results.folder / stage / f"{stage}.json"
            raise FileNotFoundError(f"{path} is missing: run the stage {stage} (`dvc repro {stage}`).")
    write_json(results.folder / "metrics.json", results.metrics)
    write_json(results.folder / "headline.json", headline(results.metrics))
    return results.metrics


def headline(metrics: dict) -> dict:
    """The few numbers that `dvc metrics` and `dvc exp show` list side by side: patch accuracy, each benchmark's mIoU in
    its first protocol, mean classification accuracy; of CLIP, PACL and both together, fractions in [0, 1].
    """
    patches = {m: values["accuracy"] for m, values in metrics["patch_alignment"].items() if "accuracy" in values}
    found, sets = {"patch accuracy": patches}, list(metrics["classification"].values())
    for benchmark, protocols in metrics["segmentation"].items():
        first = next(iter(protocols.values()))
        found[f"{benchmark} mIoU"] = {m: values["miou"] for m, values in first.items()}
    found["classification"] = {m: sum(one[m] for one in sets) / len(sets) for m in (sets[0] if sets else {})}
    return {
        name: {method: of[method] for method in ("clip", "pacl", "ensemble") if method in of}
        for name, of in found.items()
        if of
    }


def leaves(tree, path: str = "") -> dict:
    """Every value in nested tables and lists, by its dotted path."""
    if not isinstance(tree, (dict, list)):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        name: leaf
        for key, value in items
        for name, leaf in leaves(value, f"{path}.{key}" if path else str(key)).items()
    }


def gap(old, new) -> float:
    """The distance of two values: 0 for equal ones (NaN equals NaN), infinite for others that aren't both numbers."""
    if old == new or (old != old and new != new):
        return 0.0
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in (old, new))
    return abs(new - old) if numbers else math.inf


def compare(old: dict, new: dict, tolerance: float) -> tuple[list[str], bool]:
    """Lines on how two metrics.json differ, and whether both hold the same values within the tolerance (not none)."""
    before, after = leaves(old), leaves(new)
    gaps = {path: gap(before[path], after[path]) for path in before if path in after}
    lines = [f"{path} is only in the old file." for path in before if path not in after]
    lines += [f"{path} is only in the new file." for path in after if path not in before]
    too_far = sorted((path for path in gaps if gaps[path] > tolerance + 1e-9), key=gaps.get, reverse=True)
    lines += [f"{path}: {before[path]} -> {after[path]}, more than {tolerance} apart." for path in too_far]
    within = bool(gaps) and not lines
    if gaps:
        path = max(gaps, key=gaps.get)
        change = f"{path} ({before[path]} -> {after[path]})"
        lines.append(f"Largest difference of {len(gaps)} values: {gaps[path]:.6f}, {change}.")
    return lines, within
