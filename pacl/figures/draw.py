"""Draws the report's figures from the files that the stages wrote: one function for each chapter.

Each function takes reports/PROFILE, writes its PNGs into reports/PROFILE/figures, shows these in a notebook and returns
the figures by file name.
label: what the figures call the run's data (pacl.figures.charts.label_of).
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display

from pacl.figures import analyses, charts
from pacl.figures.charts import NAMES
from pacl.figures.scenes import heat_maps, image_grid, label_grid, segmentation_grid
from pacl.runtime.files import read_json

COMPARED = ["CLIP", "PACL"]  # the methods of figures that have no room for all


def pairs(report: Path, images, captions: list[list[str]], *, count: int = 24) -> dict:
    """The first `count` training images, each with its first caption."""
    shown = range(min(count, len(images)))
    figure = image_grid([images[i] for i in shown], [captions[i][0] for i in shown])
    return saved(report, {"pairs.png": figure}, dpi=110)


def scenes(report: Path, image_sets: dict, *, count: int = 6) -> dict:
    """The first `count` test scenes with their true label maps: with the classes of coco_stuff, which has things and
    stuff, or else of the first benchmark. image_sets: as pacl.data.prepared.all_scenes returns them.
    """
    found = {name: one for one in image_sets.values() for name in one.benchmarks}
    name = "coco_stuff" if "coco_stuff" in found else next(iter(found))
    images, masks, benchmark = found[name].images, found[name].masks, found[name].benchmarks[name]
    shown = range(min(count, len(images)))
    truth = [benchmark.target(masks[i]) for i in shown]
    figure = label_grid([[images[i] for i in shown], truth], list(benchmark.names))
    return saved(report, {"scenes.png": figure}, dpi=110)


def consistency(report: Path) -> dict:
    """The pairs of accuracy and mean IoU that VOC's 20 classes allow, with the published ones, and this run's own."""
    return saved(report, {"consistency.png": charts.regions(read_json(report / "consistency.json"))})


def training(report: Path) -> dict:
    return saved(report, {"training.png": charts.training_curves(pd.read_csv(report / "train/training.csv"))})


def patches(report: Path, label: str) -> dict:
    """Coherence, accuracy by class, and the map of patches and texts."""
    folder = report / "patch_alignment"
    by_class, places = named(folder / "patch_accuracy.csv"), named(folder / "patch_map.csv")
    title = f"Patches given the right class ({label})"
    look = {"value": "accuracy", "axis_title": "patch accuracy, %"}
    accuracy = charts.class_bars(by_class[by_class.method.isin(COMPARED)], title, **look)
    curves = {NAMES[method]: curve for method, curve in read_json(folder / "patch_roc.json").items()}
    maps = analyses.patch_maps(dict(iter(places.groupby("method", sort=False))))
    figures = {"patch_accuracy.png": accuracy}
    if curves:
        figures["patch_roc.png"] = charts.roc_curves(curves)
    if blocks := read_json(folder / "blocks.json")["auc"]:
        figures["patch_blocks.png"] = charts.block_curve(blocks)
    return saved(report, figures) | saved(report, {"patch_map.png": maps}, dpi=150)


def segmentation(report: Path, label: str) -> dict:
    """mIoU by benchmark and protocol, and IoU by class of the first benchmark and protocol."""
    measured = read_json(report / "segmentation/segmentation.json")
    rows = [(b, p, NAMES[m], v["miou"]) for b, of in measured.items() for p, ms in of.items() for m, v in ms.items()]
    table = pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "value"])
    by_class = named(report / "segmentation/iou_by_class.csv")
    benchmark, protocol = by_class[["benchmark", "protocol"]].iloc[0]
    first = by_class[(by_class.benchmark == benchmark) & (by_class.protocol == protocol)]
    title = f"IoU by class, {benchmark}, {protocol} protocol ({label})"
    figures = {
        "protocols.png": charts.protocol_bars(table, f"Mean IoU ({label})"),
        "iou_by_class.png": charts.class_bars(first[first.method.isin(COMPARED)], title),
    }
    return saved(report, figures)


def segmented_scenes(report: Path, label: str, images_of: Callable) -> dict:
    """Heat maps of prompts, label maps of whole scenes, and mistakes. images_of: benchmark -> its test images."""
    folder = report / "scenes"
    shown, maps = read_json(folder / "shown.json", "heat", "labels"), np.load(folder / "shown.npz")

    def of_scenes(kind: str, count: int) -> list:
        return [maps[f"{kind}/{i}"] for i in range(count)]

    heat, labels = shown["heat"], shown["labels"]
    heats = {NAMES[m]: of_scenes(f"heat/{m}", len(heat["scenes"])) for m in ("clip", "pacl")}
    images = [images_of(heat["benchmark"])[i] for i in heat["scenes"]]
    columns = {NAMES.get(m, m): of_scenes(m, len(labels["scenes"])) for m in ("truth", "clip", "pacl")}
    scenes = [images_of(labels["benchmark"])[i] for i in labels["scenes"]]
    figures = {
        "heat_maps.png": heat_maps(images, heat["prompts"], heats),
        "segmentation_grid.png": segmentation_grid(scenes, columns, labels["classes"]),
    }
    return saved(report, figures, dpi=110) | saved(report, {"mistakes.png": mistakes(folder, label)})


def mistakes(folder: Path, label: str):
    about = read_json(folder / "mistakes.json", "benchmark", "protocol")
    tables = [named(folder / f"{name}.csv") for name in ("confusions", "areas", "mentions")]
    return analyses.mistakes(*tables, f"{about['benchmark']}, {about['protocol']} protocol ({label})")


def classification(report: Path, label: str) -> dict:
    """Accuracy by set and method, and its differences from CLIP's."""
    measured = read_json(report / "classification/classification.json")
    rows = [(name.replace("_", " "), NAMES[m], v) for name, of_set in measured.items() for m, v in of_set.items()]
    table = pd.DataFrame(rows, columns=["set", "method", "value"])
    gains = named(report / "classification/classification.csv")
    gains = gains.assign(set=gains["set"].str.replace("_", " "))
    figures = {
        "classification.png": charts.grouped_bars(table, "set", f"Zero-shot accuracy ({label})", "accuracy, %"),
        "classification_differences.png": analyses.differences(gains, f"Zero-shot accuracy against CLIP ({label})"),
    }
    return saved(report, figures)


def ablations(report: Path, label: str) -> dict:
    """One figure for each group of settings, and one of other worlds; none where the ablations haven't run."""
    folder = report / "ablations"
    if not (folder / "ablations.csv").is_file():
        return {}
    findings = read_json(folder / "findings.json")
    figures = {
        f"ablation_{group}.png": analyses.ablation(rows, f"{findings[group]['title']}\n({label})")
        for group, rows in pd.read_csv(folder / "ablations.csv").groupby("group", sort=False)
    }
    if len(runs := named(folder / "worlds.csv")):
        figures["worlds.png"] = analyses.worlds(runs, f"{label}, drawn from other seeds")
    return saved(report, figures)


def named(path: Path) -> pd.DataFrame:
    """A table with the methods' names in place of their keys."""
    return pd.read_csv(path).replace({"method": NAMES})


def saved(report: Path, figures: dict, *, dpi: int = 200) -> dict:
    """Shows the files: a notebook that shows figures draws them once more."""
    for name, figure in figures.items():
        path = report / "figures" / name
        charts.save(figure, path, dpi=dpi)
        display(Image(filename=path, width=charts.size(path)[0]))
        plt.close(figure)
    return figures
