"""Figures of the analyses: patches and texts in one plane, differences with intervals, mistakes, other worlds (paper,
section 4).
"""

from itertools import count

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.patheffects import withStroke

from pacl.plots import COLOURS, title_above_legend
from pacl.scene_plots import palette


def patch_maps(maps: dict[str, pd.DataFrame], classes: list[str]):
    """One panel a method: patches as dots and class texts as stars in one plane, a colour a class; a class's name
    stands in the middle of its patches, and a line leads there from its star.

    maps: method -> columns x, y, label, is_text (pacl.alignment.patch_map).
    """
    labels = sorted(set(next(iter(maps.values())).label))
    colours = dict(zip(labels, palette(len(labels) + 1)[1:], strict=True))
    figure, axes = plt.subplots(1, len(maps), figsize=(4.6 * len(maps), 4.6), squeeze=False)
    for axis, (method, table) in zip(axes[0], maps.items(), strict=True):
        patches, texts = table[~table.is_text], table[table.is_text]
        middles = patches.groupby("label")[["x", "y"]].median()
        axis.scatter(patches.x, patches.y, c=[colours[k] for k in patches.label], s=5, alpha=0.7, linewidths=0)
        star = {"marker": "*", "s": 120, "edgecolors": "black", "linewidths": 0.8, "zorder": 3}
        axis.scatter(texts.x, texts.y, c=[colours[k] for k in texts.label], **star)
        for row in texts[texts.label.isin(middles.index)].itertuples():
            end = middles.loc[row.label]
            axis.plot([row.x, end.x], [row.y, end.y], color=colours[row.label], lw=0.9, zorder=2)
        name_clusters(axis, middles, table, {k: classes[k] for k in labels}, colours)
        axis.set(title=method, xticks=[], yticks=[])
    figure.tight_layout()
    return figure


def name_clusters(axis, middles: pd.DataFrame, table: pd.DataFrame, names: dict, colours: dict) -> None:
    """Each class's name at its middle (label -> x, y), in a dark shade of its colour with a white edge."""
    edge = [withStroke(linewidth=2.6, foreground="white")]
    lifts = label_lifts(middles, table, beside=table[table.is_text])
    for row, lift in zip(middles.itertuples(), lifts, strict=True):
        look = {"fontsize": 7.5, "fontweight": "bold", "color": 0.55 * colours[row.Index], "path_effects": edge}
        place = {"xytext": (0, 11 * lift), "textcoords": "offset points", "ha": "center", "va": "center", "zorder": 4}
        axis.annotate(names[row.Index], (row.x, row.y), **look, **place)


def label_lifts(texts: pd.DataFrame, table: pd.DataFrame, beside: pd.DataFrame | None = None) -> list[int]:
    """How many lines up each label goes, so that no two stand in one place, and none where a row of `beside` is."""
    width, line = 0.12 * (table.x.max() - table.x.min()), 0.042 * (table.y.max() - table.y.min())
    taken, lifts = [] if beside is None else list(beside[["x", "y"]].itertuples(index=False)), []
    for x, y in texts[["x", "y"]].to_numpy():
        near = [other for at, other in taken if abs(at - x) < width]
        lifts.append(next(n for n in count() if all(abs(y + n * line - other) >= 0.999 * line for other in near)))
        taken.append((x, y + lifts[-1] * line))
    return lifts


def differences(table: pd.DataFrame, title: str):
    """Accuracy minus CLIP's with its interval, by set and method; the last set, their mean, in bold.

    Columns set, method, difference, low, high, in [0, 1]; a table without rows gives an empty picture.
    """
    sets, methods = table["set"].unique().tolist(), table.method.unique().tolist()
    figure, axis = plt.subplots(figsize=(6.4, 0.36 * len(sets) + 1.3))
    for i, method in enumerate(methods):
        rows = 100 * table[table.method == method].set_index("set").loc[sets, ["difference", "low", "high"]]
        at = [y + 0.32 * (i - (len(methods) - 1) / 2) for y in range(len(sets))]
        error = [rows.difference - rows.low, rows.high - rows.difference]
        axis.errorbar(rows.difference, at, xerr=error, fmt="o", ms=4.5, lw=1.4, color=COLOURS[method], label=method)
    axis.axvline(0, color="black", lw=0.8)
    axis.set(xlabel="accuracy minus CLIP's, points", ylabel="", yticks=range(len(sets)), yticklabels=sets)
    if sets:
        axis.get_yticklabels()[-1].set_fontweight("bold")
        axis.legend()
        title_above_legend(axis, title)
    axis.invert_yaxis()
    return figure


def mistakes(confused: pd.DataFrame, size: pd.DataFrame, mention: pd.DataFrame, title: str):
    """Three panels: the most frequent confusions; recall by area; IoU by how many training images' captions name the
    class. Tables as pacl.errors makes them, methods by their names.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), width_ratios=[1.1, 1, 1.1])
    confused = confused.sort_values("share", ascending=False, kind="stable")
    names = confused["class"] + " → " + confused.taken_for
    axes[0].barh(names, 100 * confused.share, color=COLOURS["PACL"])
    axes[0].invert_yaxis()
    axes[0].set(title="Class → what PACL takes it for", xlabel="share of the class's pixels, %")
    sns.barplot(
        size.assign(recall=100 * size.recall, size=size.kind + "\n" + size["size"]),
        x="size",
        y="recall",
        hue="method",
        palette=COLOURS,
        saturation=1,
        ax=axes[1],
    )
    axes[1].set(title="Small and large areas", xlabel="area, share of the image", ylabel="pixels found, mean, %")
    axes[1].tick_params(axis="x", labelsize=7.5)
    axes[1].legend(frameon=False, title=None)
    for method, rows in mention.groupby("method", sort=False):
        axes[2].scatter(rows.images, 100 * rows.iou, color=COLOURS[method], s=22)
    axes[2].set(
        title="Seen rarely and often in captions", xlabel="images whose captions name the class", ylabel="IoU, %"
    )
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def worlds(table: pd.DataFrame, title: str, metrics: dict[str, str]):
    """One panel a metric: CLIP and PACL in each world, joined by a line; columns seed, method and the metrics.
    Without metrics the picture is empty.
    """
    figure, axes = plt.subplots(1, max(1, len(metrics)), figsize=(2.9 * max(1, len(metrics)), 3.2), squeeze=False)
    for axis, (metric, label) in zip(axes[0], metrics.items(), strict=False):
        for _, rows in table.groupby("seed"):
            axis.plot(rows.method, 100 * rows[metric], color="grey", lw=1, zorder=1)
            axis.scatter(rows.method, 100 * rows[metric], color=[COLOURS[m] for m in rows.method], zorder=2)
        axis.set(ylabel=label, xlim=(-0.4, 1.4), ylim=(0, None))
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    figure.tight_layout()
    return figure
