"""The figures of the notebooks and the report: one style, one colour a method, each function draws one figure.

Charts are drawn here, scenes in pacl.figures.scenes; notebooks find both under this name.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from pacl.figures.scenes import heat_maps as heat_maps
from pacl.figures.scenes import image_grid as image_grid
from pacl.figures.scenes import overlays as overlays
from pacl.figures.scenes import scene_pairs as scene_pairs
from pacl.figures.scenes import segmentation_grid as segmentation_grid
from pacl.figures.scenes import wrapped
from pacl.runtime.files import read_json

COLOURS = {
    "CLIP": "#6f8fc0",
    "PACL": "#d1495b",
    "CLIP + PACL": "#14404f",
    "MaskCLIP": "#e68f00",
    "SCLIP": "#c5b472",
    "NACLIP": "#8b19b1",
    "ClearCLIP": "#15781b",
    "random encoder": "#c4c4c4",
    "colours alone": "#302010",
}  # one a method, everywhere; they differ in lightness too, for colour-blind readers and for print
NAMES = {
    "clip": "CLIP",
    "maskclip": "MaskCLIP",
    "sclip": "SCLIP",
    "naclip": "NACLIP",
    "clearclip": "ClearCLIP",
    "pacl": "PACL",
    "ensemble": "CLIP + PACL",
    "random": "random encoder",
    "colours": "colours alone",
}
ABLATION_METRICS = {
    "patch_accuracy": "patch accuracy, %",
    "voc20": "voc20 mIoU, %",
    "voc21": "voc21 mIoU, %",
    "context59": "context59 mIoU, %",
}


def label_of(report: Path, pretrained: str) -> str:
    """What a run's results are called in its figures, of the prepare.json in its folder of reports; random weights are
    named.
    """
    return read_json(report / "prepare.json")["label"] + (", random weights" if pretrained == "random" else "")


def use_style() -> None:
    """seaborn's white grid with small, quiet text; called once at the top of a notebook."""
    sns.set_theme(
        style="whitegrid",
        context="notebook",
        font_scale=0.85,
        rc={"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False},
    )
    plt.rcParams["axes.titleweight"] = "bold"


def save(figure, path: Path, *, dpi: int = 200) -> None:
    """Writes a PNG without time or version in it, so that equal figures are equal bytes; grids of small pictures need
    fewer dots an inch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, bbox_inches="tight", metadata={"Software": None})


def training_curves(history: pd.DataFrame):
    """Loss and retrieval over epochs, from the history that pacl.training.train returns."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for column, label, style in (
        ("loss", "training (captions and noun prompts)", "--"),
        ("validation_loss", "validation (captions)", "-"),
    ):
        left.plot(history["epoch"], history[column], style, color=COLOURS["PACL"], label=label)
    best = history.loc[history["validation_loss"].idxmin()]
    left.plot(best["epoch"], best["validation_loss"], "o", color=COLOURS["PACL"], label="best epoch")
    left.set(title="Contrastive loss", xlabel="epoch", ylabel="InfoNCE, nats")
    left.legend(frameon=False)
    right.plot(history["epoch"], 100 * history["validation_retrieval"], color=COLOURS["PACL"])
    right.set(
        title="Image finds its caption among its batch",
        xlabel="epoch",
        ylabel="validation retrieval, %",
        ylim=(0, None),
    )
    figure.tight_layout()
    return figure


def pretraining_curve(history: pd.DataFrame):
    """The mini CLIP's contrastive loss over steps, from the history that pacl.training.pretrain returns."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    axis.plot(history["step"], history["loss"], color=COLOURS["CLIP"])
    axis.set(title="Pre-training the mini CLIP", xlabel="step", ylabel="InfoNCE, nats (batches of 256)")
    return figure


def matrices(tables: dict, labels: list[str]):
    """Square tables of image by caption, side by side, with their values written in; equal values, equal colours."""
    both = np.stack([np.asarray(values) for values in tables.values()])
    figure, axes = plt.subplots(1, len(tables), figsize=(4.4 * len(tables), 3.4), squeeze=False, sharey=True)
    short = [wrapped(label, 14) for label in labels]
    for axis, (title, values) in zip(axes[0], tables.items(), strict=True):
        sns.heatmap(
            np.asarray(values),
            annot=True,
            fmt=".2f",
            cmap="rocket_r",
            vmin=both.min(),
            vmax=both.max(),
            cbar=False,
            square=True,
            xticklabels=labels,
            yticklabels=short,
            ax=axis,
        )
        axis.set(title=title, xlabel="caption")
        plt.setp(axis.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor", fontsize=7.5)
        axis.tick_params(axis="y", rotation=0, labelsize=7.5)
    axes[0, 0].set_ylabel("image of")
    figure.tight_layout()
    return figure


def class_bars(table: pd.DataFrame, title: str, *, value: str = "iou", axis_title: str = "IoU, %"):
    """Bars by class and method, best PACL class first; table columns: class, method, and the value in [0, 1]."""
    order = table[table.method == "PACL"].sort_values(value, ascending=False)["class"].tolist()
    figure, axis = plt.subplots(figsize=(max(6, 0.34 * len(order) + 1.5), 3.4))
    sns.barplot(
        table.assign(percent=100 * table[value]),
        x="class",
        y="percent",
        hue="method",
        order=order,
        palette=COLOURS,
        ax=axis,
        errorbar=None,
        saturation=1,
    )
    axis.set(xlabel="", ylabel=axis_title)
    axis.tick_params(axis="x", rotation=60)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor", fontsize=8)
    title_above_legend(axis, title)
    return figure


def grouped_bars(table: pd.DataFrame, x: str, title: str, axis_title: str):
    """Bars of `value` (in [0, 1], shown in %) for each x and method; a table without rows gives an empty picture."""
    figure, axis = plt.subplots(figsize=(max(6, 0.85 * table[x].nunique() + 1.5), 3.2))
    sns.barplot(
        table.assign(percent=100 * table["value"]),
        x=x,
        y="percent",
        hue="method",
        palette=COLOURS,
        ax=axis,
        errorbar=None,
        saturation=1,
    )
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axis.set(xlabel="", ylabel=axis_title)
    axis.tick_params(axis="x", rotation=25 if table[x].nunique() > 6 else 0)
    if len(table):
        title_above_legend(axis, title)
    return figure


def title_above_legend(axis, title: str) -> None:
    """The title, under it the legend in one line, under that the data: none covers another."""
    axis.set_title(title, loc="left", pad=30)
    sns.move_legend(axis, "lower left", frameon=False, title=None, ncols=4, bbox_to_anchor=(-0.02, 1.0))


def roc_curves(curves: dict[str, dict]):
    """method -> false_positives, true_positives (rates), auc, interval, as pacl.evaluation.patches.coherence gives them."""
    figure, axis = plt.subplots(figsize=(4.4, 4))
    for method, curve in curves.items():
        low, high = curve["interval"]
        label = f"{method}: AUC {curve['auc']:.2f} [{low:.2f}, {high:.2f}]"
        axis.plot(curve["false_positives"], curve["true_positives"], color=COLOURS[method], label=label)
    axis.plot([0, 1], [0, 1], ":", color="grey")
    axis.set(
        title="Do patches of one class look alike?",
        xlabel="false positive rate",
        ylabel="true positive rate",
        aspect="equal",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def ablation(table: pd.DataFrame, title: str, metrics: dict[str, str]):
    """One panel a metric: its mean over seeds for each setting, written into its bar, with every seed as a dot; the
    default setting is drawn darker.
    """
    width = max(5.5, 2.75 * len(metrics) + 1.4)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(10 * width))]
    size = (width, 0.34 * table.setting.nunique() + 0.95 + 0.2 * len(lines))
    figure, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    colours = {
        setting: COLOURS["PACL"] if point == "default" else "#e7a6ae"
        for setting, point in zip(table.setting, table.point, strict=True)
    }
    for axis, (metric, label) in zip(axes[0], metrics.items(), strict=True):
        rows = table.assign(percent=100 * table[metric])
        sns.barplot(
            rows,
            y="setting",
            x="percent",
            hue="setting",
            palette=colours,
            errorbar=None,
            saturation=1,
            legend=False,
            ax=axis,
        )
        sns.stripplot(rows, y="setting", x="percent", color="#333333", size=3.5, jitter=False, ax=axis)
        for bars, setting in zip(axis.containers, colours, strict=True):
            ink = "white" if colours[setting] == COLOURS["PACL"] else "#333333"
            axis.text(
                1, bars[0].get_y() + bars[0].get_height() / 2, f"{bars[0].get_width():.1f}", va="center", color=ink
            )
        axis.set(xlabel=label, ylabel="")
    figure.suptitle("\n".join(lines), fontweight="bold", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def protocol_bars(table: pd.DataFrame, title: str):
    """One panel a protocol, all with one scale: mean IoU by benchmark and method; table columns: benchmark, protocol,
    method, value in [0, 1].
    """
    protocols, methods = table.protocol.unique(), table.method.nunique()
    width = max(6.5, 0.25 * methods * table.benchmark.nunique() + 1.2)
    figure, axes = plt.subplots(
        len(protocols), 1, figsize=(width, 2.3 * len(protocols) + 0.8), sharex=True, sharey=True, squeeze=False
    )
    for axis, protocol in zip(axes[:, 0], protocols, strict=True):
        rows = table[table.protocol == protocol].assign(percent=100 * table.value)
        sns.barplot(
            rows,
            x="benchmark",
            y="percent",
            hue="method",
            palette=COLOURS,
            errorbar=None,
            saturation=1,
            ax=axis,
            legend=protocol == protocols[0],
        )
        for bars in axis.containers:
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
        axis.set(xlabel="", ylabel="mIoU, %")
        axis.set_title(f"{protocol} protocol", loc="left")
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    sns.move_legend(axes[0, 0], "lower right", frameon=False, title=None, ncols=methods, bbox_to_anchor=(1.0, 1.12))
    figure.tight_layout()
    return figure
