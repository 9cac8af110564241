"""Figures of the analyses: patches and texts in one plane, mistakes, ablations, other worlds (paper, section 4)."""

import textwrap
from itertools import count

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.patheffects import withStroke

from pacl.figures.charts import COLOURS, measures, method_bars, title_above_legend, title_above_panels
from pacl.figures.scenes import palette

LIGHTER = "#e7a6ae"  # PACL's colour for settings other than the default


def patch_maps(maps: dict[str, pd.DataFrame]):
    """One panel for each method: patches as dots and class texts as stars in one plane, in their class's colour. Each
    class's name stands at the median of its patches, and a line leads there from its star.

    maps: method -> columns x, y, label (the class's name), is_text.
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
        name_clusters(axis, middles, table, colours)
        axis.set(title=method, xticks=[], yticks=[])
    figure.tight_layout()
    return figure


def name_clusters(axis, middles: pd.DataFrame, table: pd.DataFrame, colours: dict) -> None:
    """Writes each class's name at its median (label -> x, y), in a dark shade of its colour with a white edge."""
    edge = [withStroke(linewidth=2.6, foreground="white")]
    lifts = label_lifts(middles, table, avoid=table[table.is_text])
    for row, lift in zip(middles.itertuples(), lifts, strict=True):
        look = {"fontsize": 7.5, "fontweight": "bold", "color": 0.55 * colours[row.Index], "path_effects": edge}
        place = {"xytext": (0, 11 * lift), "textcoords": "offset points", "ha": "center", "va": "center", "zorder": 4}
        axis.annotate(row.Index, (row.x, row.y), **look, **place)


def label_lifts(texts: pd.DataFrame, table: pd.DataFrame, avoid: pd.DataFrame | None = None) -> list[int]:
    """How many lines to raise each label so that none covers another or a point of `avoid`."""
    width, line = 0.12 * (table.x.max() - table.x.min()), 0.042 * (table.y.max() - table.y.min())
    taken, lifts = [] if avoid is None else list(avoid[["x", "y"]].itertuples(index=False)), []
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


def mistakes(confused: pd.DataFrame, areas: pd.DataFrame, mentions: pd.DataFrame, title: str):
    """Three panels: the most frequent confusions; recall by area; IoU by how many training images' captions name the
    class. The tables are scenes/confusions.csv, areas.csv and mentions.csv, with the methods' names.
    """
    groups = areas[["kind", "size"]].drop_duplicates()
    figure, axes = plt.subplots(1, 3, figsize=(14.5, 4.3), width_ratios=[0.9, max(1.2, 0.23 * len(groups)), 1.1])
    confused = confused.sort_values("share", ascending=False, kind="stable")
    axes[0].barh(confused["class"] + " → " + confused.taken_for, 100 * confused.share, color=COLOURS["PACL"])
    axes[0].invert_yaxis()
    axes[0].set(title="Class → what PACL takes it for", xlabel="share of the class's pixels, %")
    recall_by_area(axes[1], areas)
    iou_by_mention(axes[2], mentions)
    title_above_panels(figure, title)
    return figure


def recall_by_area(axis, areas: pd.DataFrame) -> None:
    """Bars of recall by kind and area, labelled with the kind above the range."""
    method_bars(axis, areas.assign(size=areas.kind + "\n" + areas["size"].str.removesuffix(" %")), "size", "recall")
    axis.set(title="Small and large areas", xlabel="area, % of the image", ylabel="pixels found, mean, %")
    axis.tick_params(axis="x", labelsize=7.5)
    axis.legend(frameon=False, title=None, fontsize=8)


def iou_by_mention(axis, mentions: pd.DataFrame) -> None:
    """A dot for each class and method, things as triangles and stuff as circles: IoU by how many images name it."""
    for kind, marker in (("things", "^"), ("stuff", "o"), ("classes", "o")):
        for method, rows in mentions[mentions.kind == kind].groupby("method", sort=False):
            look = {"color": COLOURS[method], "marker": marker, "s": 24, "label": f"{method}, {kind}"}
            axis.scatter(rows.images, 100 * rows.iou, **look)
    axis.set(title="Named rarely and often in captions", xlabel="images whose captions name the class", ylabel="IoU, %")
    if len(mentions):
        axis.legend(frameon=False, fontsize=8, handletextpad=0.2, loc="upper left", bbox_to_anchor=(1, 1))


def ablation(runs: pd.DataFrame, title: str):
    """One panel for each measure: a bar for each setting's mean over seeds with its value, and a dot for each seed.
    The default setting's bar is darker. Columns point, setting, seed and the measures in [0, 1].
    """
    metrics = measures(runs)
    width = max(5.5, 2.75 * len(metrics) + 1.4)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(10 * width))]
    size = (width, 0.34 * runs.setting.nunique() + 0.95 + 0.2 * len(lines))
    figure, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    defaults = set(runs.setting[runs.point == "default"])
    colours = {setting: COLOURS["PACL"] if setting in defaults else LIGHTER for setting in runs.setting}
    look = {"hue": "setting", "palette": colours, "errorbar": None, "saturation": 1, "legend": False}
    for axis, (metric, name) in zip(axes[0], metrics.items(), strict=True):
        rows = runs.assign(percent=100 * runs[metric])
        sns.barplot(rows, y="setting", x="percent", ax=axis, **look)
        sns.stripplot(rows, y="setting", x="percent", color="#333333", size=3.5, jitter=False, ax=axis)
        for (bar,), setting in zip(axis.containers, colours, strict=True):
            ink = "white" if setting in defaults else "#333333"
            axis.text(1, bar.get_y() + bar.get_height() / 2, f"{bar.get_width():.1f}", va="center", color=ink)
        axis.set(xlabel=f"{name}, %", ylabel="")
    title_above_panels(figure, "\n".join(lines))
    return figure


def worlds(runs: pd.DataFrame, title: str):
    """One panel for each measure: CLIP and PACL in each world, joined by a line; columns seed, method and measures."""
    metrics = measures(runs)
    figure, axes = plt.subplots(1, len(metrics), figsize=(2.9 * len(metrics), 3.2), squeeze=False)
    for axis, (metric, name) in zip(axes[0], metrics.items(), strict=True):
        for _, rows in runs.groupby("seed"):
            axis.plot(rows.method, 100 * rows[metric], color="grey", lw=1, zorder=1)
            axis.scatter(rows.method, 100 * rows[metric], color=[COLOURS[m] for m in rows.method], zorder=2)
        axis.set(ylabel=f"{name}, %", xlim=(-0.4, 1.4), ylim=(0, None))
    title_above_panels(figure, title)
    return figure
