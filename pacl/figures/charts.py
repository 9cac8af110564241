"""Charts of the report and the notebooks: one style, one colour for each method; each function draws one figure."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from PIL import Image

from pacl.figures.scenes import wrapped
from pacl.runtime.files import read_json

METHODS = {
    "clip": ("CLIP", "#6f8fc0"),
    "maskclip": ("MaskCLIP", "#e68f00"),
    "sclip": ("SCLIP", "#c5b472"),
    "naclip": ("NACLIP", "#8b19b1"),
    "clearclip": ("ClearCLIP", "#15781b"),
    "pacl": ("PACL", "#d1495b"),
    "ensemble": ("CLIP + PACL", "#14404f"),
    "random": ("random encoder", "#c4c4c4"),
    "colours": ("colours alone", "#302010"),
}  # key in files -> name and colour in figures; colours differ in lightness too, for colour-blind readers and for print
NAMES = {method: name for method, (name, _) in METHODS.items()}
COLOURS = dict(METHODS.values())
KEYS = ("group", "point", "setting", "seed", "method")  # columns of ablations.csv and worlds.csv that aren't measures


def label_of(report: Path, pretrained: str) -> str:
    """What figures call a run's data, from prepare/prepare.json in its report folder; names random weights."""
    label = read_json(report / "prepare/prepare.json", "label")["label"]
    return label + ", random weights" * (pretrained == "random")


def measures(runs: pd.DataFrame) -> dict[str, str]:
    """column -> what it measures, of the columns of ablations.csv or worlds.csv that hold a value."""
    columns = [name for name in runs.columns if name not in KEYS and runs[name].notna().any()]
    return {name: "patch accuracy" if name == "patch_accuracy" else f"{name} mIoU" for name in columns}


def use_style() -> None:
    """seaborn's white grid with small, quiet text; called once at the top of a notebook."""
    style = {"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.85, rc=style)


def save(figure, path: Path, *, dpi: int = 200) -> None:
    """Writes a PNG in the figure's 256 best colours, a third of the size with hardly a visible difference, without time
    or version, so that equal figures are equal bytes; grids of small pictures need a lower dpi.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, bbox_inches="tight")
    with Image.open(drawn) as picture:
        indexed = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    indexed.save(path, "PNG", optimize=True, dpi=(dpi, dpi))


def size(path: Path) -> tuple[int, int]:
    """A saved figure's width and height on a page: a hundred pixels for each inch it was drawn at."""
    with Image.open(path) as picture:
        scale = 100 / picture.info.get("dpi", (200, 200))[0]
        return round(scale * picture.width), round(scale * picture.height)


def training_curves(history: pd.DataFrame):
    """Loss and retrieval by epoch, from train/training.csv."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    colour, best = COLOURS["PACL"], history.loc[history["validation_loss"].idxmin()]
    left.plot(history["epoch"], history["loss"], "--", color=colour, label="training (captions and noun prompts)")
    left.plot(history["epoch"], history["validation_loss"], "-", color=colour, label="validation (captions)")
    left.plot(best["epoch"], best["validation_loss"], "o", color=colour, label="best epoch")
    left.set(title="Contrastive loss", xlabel="epoch", ylabel="InfoNCE, nats")
    left.legend(frameon=False)
    right.plot(history["epoch"], 100 * history["validation_retrieval"], color=colour)
    right.set(title="Image finds its caption in its batch", xlabel="epoch")
    right.set(ylabel="validation retrieval, %", ylim=(0, None))
    figure.tight_layout()
    return figure


def matrices(tables: dict, labels: list[str]):
    """Square image-by-caption tables side by side, with their values written in; equal values have equal colours."""
    values = {title: np.asarray(table) for title, table in tables.items()}
    limits = {"vmin": min(map(np.min, values.values())), "vmax": max(map(np.max, values.values()))}
    names = {"xticklabels": labels, "yticklabels": [wrapped(label, 14) for label in labels]}
    look = {"annot": True, "fmt": ".2f", "cmap": "rocket_r", "cbar": False, "square": True}
    figure, axes = plt.subplots(1, len(tables), figsize=(4.4 * len(tables), 3.4), squeeze=False, sharey=True)
    for axis, (title, table) in zip(axes[0], values.items(), strict=True):
        sns.heatmap(table, **look, **limits, **names, ax=axis)
        axis.set(title=title, xlabel="caption")
        plt.setp(axis.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor", fontsize=7.5)
        axis.tick_params(axis="y", rotation=0, labelsize=7.5)
    axes[0, 0].set_ylabel("image of")
    figure.tight_layout()
    return figure


def method_bars(axis, table: pd.DataFrame, x: str, value: str, **options) -> None:
    """Bars of `value` (in [0, 1], shown in %) for each x, one for each method in its colour."""
    look = {"palette": COLOURS, "saturation": 1, "errorbar": None, **options}
    sns.barplot(table.assign(percent=100 * table[value]), x=x, y="percent", hue="method", ax=axis, **look)


def numbered_bars(axis, table: pd.DataFrame, x: str, axis_title: str, **options) -> None:
    """`method_bars` of the column "value", with the numbers above them."""
    method_bars(axis, table, x, "value", **options)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.1f" if table.value.max() < 0.1 else "%.0f", fontsize=7, padding=1)
    axis.set(xlabel="", ylabel=axis_title)


def class_bars(table: pd.DataFrame, title: str, *, value: str = "iou", axis_title: str = "IoU, %"):
    """Bars by class and method, PACL's best class first; columns class, method, and the value in [0, 1]."""
    order = table[table.method == "PACL"].sort_values(value, ascending=False)["class"].tolist()
    figure, axis = plt.subplots(figsize=(max(6, 0.34 * len(order) + 1.5), 3.4))
    method_bars(axis, table, "class", value, order=order)
    axis.set(xlabel="", ylabel=axis_title)
    axis.tick_params(axis="x", rotation=60)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor", fontsize=8)
    title_above_legend(axis, title)
    return figure


def grouped_bars(table: pd.DataFrame, x: str, title: str, axis_title: str):
    """Bars of `value` (in [0, 1], shown in %) for each x and method; a table without rows gives an empty picture."""
    figure, axis = plt.subplots(figsize=(max(6, 0.85 * table[x].nunique() + 1.5), 3.2))
    numbered_bars(axis, table, x, axis_title)
    axis.tick_params(axis="x", rotation=25 if table[x].nunique() > 6 else 0)
    if len(table):
        title_above_legend(axis, title)
    return figure


def protocol_bars(table: pd.DataFrame, title: str):
    """Mean IoU by benchmark and method, one panel for each protocol, all on one scale; columns benchmark, protocol,
    method, value in [0, 1].
    """
    protocols, methods = table.protocol.unique(), table.method.nunique()
    size = (max(6.5, 0.25 * methods * table.benchmark.nunique() + 1.2), 2.3 * len(protocols) + 0.8)
    figure, axes = plt.subplots(len(protocols), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, protocol in zip(axes[:, 0], protocols, strict=True):
        rows = table[table.protocol == protocol]
        numbered_bars(axis, rows, "benchmark", "mIoU, %", legend=protocol == protocols[0])
        axis.set_title(f"{protocol} protocol", loc="left")
    sns.move_legend(axes[0, 0], "lower right", frameon=False, title=None, ncols=methods, bbox_to_anchor=(1.0, 1.12))
    title_above_panels(figure, title)
    return figure


def title_above_legend(axis, title: str) -> None:
    """Stacks the title, the legend in one line, and the data, so that none covers another."""
    axis.set_title(title, loc="left", pad=30)
    sns.move_legend(axis, "lower left", frameon=False, title=None, ncols=4, bbox_to_anchor=(-0.02, 1.0))


def title_above_panels(figure, title: str) -> None:
    """A bold title at the left, and the panels laid out below it."""
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    figure.tight_layout()


def roc_curves(curves: dict[str, dict]):
    """method -> false_positives, true_positives (rates), auc, interval, as patch_alignment/patch_roc.json has them."""
    figure, axis = plt.subplots(figsize=(4.4, 4))
    for method, curve in curves.items():
        low, high = curve["interval"]
        label = f"{method}: AUC {curve['auc']:.2f} [{low:.2f}, {high:.2f}]"
        axis.plot(curve["false_positives"], curve["true_positives"], color=COLOURS[method], label=label)
    axis.plot([0, 1], [0, 1], ":", color="grey")
    axis.set(title="Do patches of one class look alike?", xlabel="false positive rate", ylabel="true positive rate")
    axis.set(aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def block_curve(areas: list[float]):
    """Coherence after each of CLIP's blocks, from patch_alignment/blocks.json."""
    figure, axis = plt.subplots(figsize=(4.4, 2.6))
    axis.plot(range(1, len(areas) + 1), areas, "o-", color=COLOURS["CLIP"])
    axis.set(title="Coherence of CLIP's patch tokens", xlabel="after block", ylabel="AUC")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def regions(found: dict):
    """The pairs of accuracy and mean IoU that VOC's 20 classes allow, with the published ones, next to the pairs of a
    run's own benchmark, with its methods; from consistency.json.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    own = found["own"]
    region(left, found["voc20"]["region"], "Pascal VOC, 20 classes: published numbers")
    for point in found["voc20"]["points"]:
        published(left, point)
    impossible = next(point for point in found["voc20"]["points"] if point["name"] == "PACL, ViT-B/16")
    lowest = found["voc20"]["lowest_miou"][f"{impossible['accuracy']:g}"]
    x, y = 100 * impossible["accuracy"], 100 * impossible["miou"][0]
    left.annotate("", (x, 100 * lowest), (x, y), arrowprops={"arrowstyle": "->", "color": COLOURS["PACL"], "lw": 1.5})
    region(right, own["region"], f"This run: {own['benchmark']}, {own['protocol']} protocol")
    for name, of in own["points"].items():
        right.plot(100 * of["accuracy"], 100 * of["miou"], "o", color=COLOURS[NAMES[name]], label=NAMES[name])
    left.set(ylabel="mean IoU, %")
    for axis in (left, right):
        axis.legend(edgecolor="white", framealpha=0.9, fontsize=8, loc="upper left")
    figure.tight_layout()
    return figure


def region(axis, edges: dict[str, list[float]], title: str) -> None:
    """The possible pairs as an area, and errors spread evenly as a line."""
    accuracy, low, spread, high = (100 * np.array(edges[name]) for name in ("accuracy", "lowest", "spread", "highest"))
    axis.fill_between(accuracy, low, high, color="#dfe6ee", label="possible")
    axis.plot(accuracy, spread, "--", color="#7a8794", lw=1, label="errors spread evenly")
    axis.set(title=title, xlabel="patches or pixels right, %", xlim=(0, 101), ylim=(0, 101))


def published(axis, point: dict) -> None:
    """One published method: a point or, of a range of mean IoU, a bar; a line along the edge if one number is known."""
    method = point["name"].split(",")[0]
    colour, miou = COLOURS[method], [100 * value for value in point["miou"]]
    if point["accuracy"] is None:
        axis.axhline(miou[0], color=colour, lw=1, ls=":", label=f"{point['name']}, mIoU alone")
    elif not miou:
        axis.axvline(100 * point["accuracy"], color=colour, lw=1, ls=":", label=f"{point['name']}, accuracy alone")
    else:
        marker = "X" if method == "PACL" else "o"
        axis.plot([100 * point["accuracy"]] * len(miou), miou, f"{marker}-", color=colour, label=point["name"])
