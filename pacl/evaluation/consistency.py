"""Writes consistency.json: whether the paper's patch accuracy and mean IoU fit each other on VOC's 20 classes, which
readings of them could, and the same region for a run's own benchmark and methods (pacl.evaluation.region).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pacl.evaluation import region as bounds
from pacl.runtime.config import project_root
from pacl.runtime.files import read_json, write_json

ACCURACIES = np.round(np.concatenate([np.arange(0.1, 0.9, 0.025), np.arange(0.9, 1.0001, 0.01)]), 4)
EDGES = {"lowest": bounds.lowest_miou, "spread": bounds.spread_miou, "highest": bounds.highest_miou}


def write_consistency(path: Path, own: dict, published: pd.DataFrame) -> dict:
    """Writes and returns what the chapter needs, fractions in [0, 1].

    own: as `own_points`. published: the table data/published.csv.
    """
    voc = read_json(project_root() / "data/voc2012_val.json", "benchmarks", "areas")
    shares = shares_of(voc["benchmarks"]["voc20"]["pixels"])
    points = published_points(published)
    paper = next(point for point in points if point["name"] == "PACL, ViT-B/16")
    content = {
        "voc20": at_points(shares, points) | {"region": region(shares), "points": points},
        "readings": readings(voc, paper["accuracy"], paper["miou"][0]),
        "perfect patches": {name: one["perfect patches"] for name, one in voc["benchmarks"].items()},
        "own": own | {"region": region(shares_of(own["pixels"]))},
        "source": voc["source"],
    }
    content["conclusion"] = conclusion(paper, content["voc20"], content["readings"])
    write_json(path, content)
    return content


def shares_of(pixels: list[int]) -> np.ndarray:
    """Shares [K] of the classes that occur."""
    counts = np.array([count for count in pixels if count], float)
    return counts / counts.sum()


def region(shares: np.ndarray) -> dict[str, list[float]]:
    """The edges of what mean IoU each accuracy allows, and errors spread evenly."""
    return {"accuracy": ACCURACIES.tolist()} | {
        name: [edge(shares, accuracy) for accuracy in ACCURACIES] for name, edge in EDGES.items()
    }


def at_points(shares: np.ndarray, points: list[dict]) -> dict[str, dict[str, float]]:
    """For each published accuracy the mean IoU it allows, for each published mean IoU the highest accuracy."""
    accuracies = dict.fromkeys(point["accuracy"] for point in points if point["accuracy"])
    mious = dict.fromkeys(miou for point in points for miou in point["miou"])
    return {f"{name}_miou": {f"{a:g}": edge(shares, a) for a in accuracies} for name, edge in EDGES.items()} | {
        "highest_accuracy": {f"{miou:g}": bounds.highest_accuracy(shares, miou) for miou in mious}
    }


def published_points(published: pd.DataFrame) -> list[dict]:
    """{"name", "accuracy" or None, "miou": one number, both ends of a range, or none} of CLIP, MaskCLIP and PACL."""
    points: dict[str, dict] = {}
    for row in published.itertuples():
        method = row.method.removesuffix(", as claimed")
        wanted = row.metric == "patch accuracy" or (row.metric == "mIoU" and row.benchmark == "voc20")
        if wanted and method in ("CLIP", "MaskCLIP", "PACL"):
            name = f"{method}, {row.backbone}"
            point = points.setdefault(name, {"name": name, "accuracy": None, "miou": []})
            values = [round(float(value) / 100, 6) for value in row.value.split("–")]
            point |= {"accuracy": values[0]} if row.metric == "patch accuracy" else {"miou": values}
    return list(points.values())


def readings(voc: dict, accuracy: float, miou: float) -> list[dict]:
    """Readings of the two numbers: {"id", "can" (whether predictions exist that have both, None if that is open), and
    the numbers that say so}.
    """
    shares, areas = shares_of(voc["benchmarks"]["voc20"]["pixels"]), voc["areas"]
    with_background = voc["benchmarks"]["voc21"]["pixels"]
    background = with_background[0] / sum(with_background)
    lowest = bounds.lowest_miou(shares, accuracy)
    bound, reached = bounds.bound_of_mean_over_images(areas, accuracy), bounds.low_mean_over_images(areas, accuracy)
    over_images = None if bound <= miou < reached else reached <= miou  # None: neither reached nor excluded
    least, spread = bounds.as_background(shares, accuracy, miou)
    wrong_least, wrong_spread = bounds.from_background(shares, background, accuracy, miou)
    images = bounds.images_with_a_stray_class(areas, miou)
    return [
        {"id": "same", "can": lowest <= miou, "lowest": lowest},
        {"id": "as_background", "can": least < 1, "least": least, "spread": spread},
        {
            "id": "background_counts",
            "can": wrong_least < 1,
            "background": background,
            "least": 1 - wrong_spread,
            "most": 1 - wrong_least,
        },
        {"id": "own_classes", "can": bounds.surely_right(areas) <= accuracy, "surely": bounds.surely_right(areas)},
        {"id": "over_images", "can": over_images, "bound": bound, "reached": reached},
        {"id": "over_images_predicted", "can": images < 1, "images": images},
    ]


def own_points(report: Path, benchmark: str, protocol: str) -> dict:
    """What `write_consistency` takes of a run: a benchmark's pixels by class and each method's accuracy and mean IoU,
    from reports/PROFILE/segmentation.
    """
    measured = read_json(report / "segmentation/segmentation.json")[benchmark][protocol]
    with np.load(report / "segmentation/confusion_matrices.npz") as matrices:
        pixels = matrices[f"{benchmark}/{protocol}/{next(iter(measured))}"].sum(1).tolist()
    points = {name: {"accuracy": of["pixel_accuracy"], "miou": of["miou"]} for name, of in measured.items()}
    return {"benchmark": benchmark, "protocol": protocol, "pixels": pixels, "points": points}


def conclusion(paper: dict, voc: dict, found: list[dict]) -> str:
    """A sentence that follows from the numbers."""
    accuracy, (miou, *_) = paper["accuracy"], paper["miou"]
    both = f"{100 * accuracy:.2f} % of patches right and a mean IoU of {100 * miou:.1f} %"
    lowest, highest = voc["lowest_miou"][f"{accuracy:g}"], voc["highest_accuracy"][f"{miou:g}"]
    if lowest <= miou:
        return f"{both} can describe the same predictions."
    return (
        f"{both} cannot describe the same predictions on VOC's 20 classes: with that accuracy the mean IoU is at least "
        f"{100 * lowest:.1f} %, and {100 * miou:.1f} % allows an accuracy of at most {100 * highest:.1f} %. "
        f"Of {len(found) - 1} other readings {sum(reading['can'] is True for reading in found[1:])} can hold both."
    )
