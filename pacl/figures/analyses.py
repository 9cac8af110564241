"""Figures of the analyses: patches and texts in one plane, differences with intervals, mistakes, other worlds (paper,
section 4).
"""

from itertools import count

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.patheffects import withStroke

from pacl.figures.charts import COLOURS, title_above_legend
from pacl.figures.scenes import palette


def patch_maps(maps: dict[str, pd.DataFrame], classes: list[str]):
    """One panel a method: patches as dots and class texts as stars in one plane, a colour a class; a class's name
    stands in the middle of its patches, and a line leads there from its star.

    maps: method -> columns x, y, label, is_text (pacl.evaluation.patches.patch_map).
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


def mistakes(confused: pd.DataFrame, size: pd.DataFrame, mention: pd.DataFrame, things: set[str], title: str):
    """Three panels: the most frequent confusions; recall by area; IoU by how many training images' captions name the
    class, things as triangles and stuff as circles. Tables as pacl.evaluation.mistakes makes them, methods by their names.
    """
    groups = size[["kind", "size"]].drop_duplicates()
    figure, axes = plt.subplots(1, 3, figsize=(14.5, 4.3), width_ratios=[0.9, max(1.2, 0.23 * len(groups)), 1.1])
    confused = confused.sort_values("share", ascending=False, kind="stable")
    names = confused["class"] + " → " + confused.taken_for
    axes[0].barh(names, 100 * confused.share, color=COLOURS["PACL"])
    axes[0].invert_yaxis()
    axes[0].set(title="Class → what PACL takes it for", xlabel="share of the class's pixels, %")
    areas_found(axes[1], size)
    by_mentions(axes[2], mention, things)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def areas_found(axis, size: pd.DataFrame) -> None:
    """Bars of recall by kind and area, a group's kind above its range."""
    names = size.kind + "\n" + size["size"].str.removesuffix(" %")
    look = {"palette": COLOURS, "saturation": 1, "ax": axis}
    sns.barplot(size.assign(recall=100 * size.recall, size=names), x="size", y="recall", hue="method", **look)
    axis.set(title="Small and large areas", xlabel="area, % of the image", ylabel="pixels found, mean, %")
    axis.tick_params(axis="x", labelsize=7.5)
    axis.legend(frameon=False, title=None, fontsize=8)


def by_mentions(axis, mention: pd.DataFrame, things: set[str]) -> None:
    """A dot a class and method: IoU by how many images name the class."""
    of_things = mention["class"].isin(things)
    for kind, marker, rows in (("things", "^", mention[of_things]), ("stuff", "o", mention[~of_things])):
        for method, of_method in rows.groupby("method", sort=False):
            look = {"color": COLOURS[method], "marker": marker, "s": 24, "label": f"{method}, {kind}"}
            axis.scatter(of_method.images, 100 * of_method.iou, **look)
    axis.set(title="Seen rarely and often in captions", xlabel="images whose captions name the class", ylabel="IoU, %")
    if len(mention):
        axis.legend(frameon=False, fontsize=8, handletextpad=0.2, loc="upper left", bbox_to_anchor=(1, 1))


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
