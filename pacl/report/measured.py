"""The report's chapters with measurements, and the literature's numbers next to them (paper, section 4)."""

import math

import pandas as pd

from pacl.figures.charts import NAMES
from pacl.report.page import capital, figure, fold, heading, missing, percent, table, text
from pacl.report.results import Results
from pacl.runtime.config import project_root

LITERATURE = "On the real benchmarks, from the literature"
COLUMNS = {
    "voc21": "VOC21",
    "context60": "C60",
    "voc20": "VOC20",
    "context59": "C59",
    "coco_stuff": "Stuff171",
    "cityscapes": "City",
    "ade20k": "ADE150",
}


def patch_alignment(results: Results) -> list[dict]:
    measured, by_class = results.metrics["patch_alignment"], results.patch_accuracy
    plane = (
        "Patches (dots) and class texts (stars) of ten classes in one plane by t-SNE, before and after training. A "
        "line leads from each class's text to the middle of its patches; texts in one place hide each other."
    )
    return [
        text(
            "A patch's label is the majority label of its pixels; its prediction is the class with the nearest text. "
            "Coherence says how well the cosine of two patches from different images tells whether they show one class "
            "(area under the ROC curve; chance is half). “Colours alone” uses the mean and deviation of a patch's "
            "colours."
        ),
        *(patch_table(measured) if measured else [missing("patch_alignment/patch_alignment.json")]),
        literature_patches(),
        figure(results, "figures/patch_roc.png", "Are patches of one class more alike than patches of two?"),
        figure(results, "figures/patch_map.png", plane),
        figure(results, "figures/patch_accuracy.png", "Patch accuracy by class."),
        missing("patch_alignment/patch_accuracy.csv")
        if by_class is None
        else fold("Patch accuracy of every class", [by_method(by_class, ["class", "patches"], "accuracy")]),
    ]


def patch_table(measured: dict) -> list[dict]:
    """Patch accuracy and coherence by method; a sentence where PACL's coherence is below that of CLIP's tokens."""
    rows = [
        [
            NAMES[method],
            percent(of.get("accuracy")),
            interval(of.get("accuracy_interval"), percent),
            f"{of['auc']:.3f}" if "auc" in of else "–",
            interval(of.get("auc_interval"), "{:.3f}".format),
        ]
        for method, of in measured.items()
    ]
    columns = ["Method", "Patch accuracy, %", "95 % interval", "Coherence AUC", "95 % interval"]
    shown = table(columns, rows, caption="Measured here; intervals from resampling images")
    pacl, clip = (measured.get(method, {}).get("auc", math.nan) for method in ("pacl", "clip"))
    if not pacl < clip:
        return [shown]
    said = (
        f"By this measure PACL's embeddings are less coherent than CLIP's own tokens ({pacl:.3f} against {clip:.3f}): "
        "whether patches of a class are alike is one question, whether they are near its text another."
    )
    return [shown, text(said)]


def segmentation(results: Results) -> list[dict]:
    measured, by_class = results.metrics["segmentation"], results.iou_by_class
    grid = "Scenes, their true label maps, CLIP's, and PACL's; areas too small for a name have none."
    return [
        text(
            "Each pixel gets the class whose text is nearest to its patch. All test scenes share one confusion matrix; "
            "mean IoU is over the classes that occur. MaskCLIP, SCLIP, NACLIP, and ClearCLIP read CLIP's last block in "
            "other ways and train nothing."
        ),
        *(segmentation_tables(measured) if measured else [missing("segmentation/segmentation.json")]),
        figure(results, "figures/protocols.png", "Mean IoU by benchmark and protocol."),
        literature_segmentation(),
        heading("Class by class"),
        figure(results, "figures/iou_by_class.png", "IoU by class."),
        *([missing("segmentation/iou_by_class.csv")] if by_class is None else class_tables(by_class)),
        heading("Where is it?"),
        figure(
            results, "figures/heat_maps.png", "Each pixel's cosine with one text; each map is scaled to its own range."
        ),
        heading("Whole scenes"),
        figure(results, "figures/segmentation_grid.png", grid),
        *mistakes(results),
    ]


def segmentation_tables(measured: dict) -> list[dict]:
    """Tables of mIoU and of pixel accuracy: one row for each benchmark and protocol, one column for each method."""
    tables = []
    for key, title in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy")):
        rows = [
            (benchmark, protocol, method, values[key])
            for benchmark, of_benchmark in measured.items()
            for protocol, of_protocol in of_benchmark.items()
            for method, values in of_protocol.items()
        ]
        frame = pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "value"])
        shown = by_method(frame, ["benchmark", "protocol"], "value", caption=f"Measured here: {title} in %")
        tables.append(shown if key == "miou" else fold(capital(title), [shown]))
    return tables


def class_tables(by_class: pd.DataFrame) -> list[dict]:
    """One fold for each benchmark with a table for each protocol: IoU by class and method. Paper gets the first."""
    folds = []
    for benchmark, rows in by_class.groupby("benchmark", sort=False):
        tables = [
            by_method(of_protocol, ["class"], "iou", caption=f"{benchmark}, {protocol} protocol", screen=number > 0)
            for number, (protocol, of_protocol) in enumerate(rows.groupby("protocol", sort=False))
        ]
        folds.append(fold(f"{benchmark}: IoU of {rows['class'].nunique()} classes", tables))
    return folds


def mistakes(results: Results) -> list[dict]:
    """Which classes are confused; things and stuff, small and large, rarely and often named."""
    found = results.mistakes
    if not found:
        return [missing("scenes/mistakes.json")]
    said = ", ".join(f"{NAMES[row['method']]} {percent(row['iou'])} % on {row['kind']}" for row in found["kinds"])
    ranks = ", ".join(
        "{0} {mention_rank:+.2f} ({1:+.2f} to {2:+.2f}) on the {classes} {kind}".format(
            NAMES[row["method"]], *row["mention_interval"], **row
        )
        for row in found["kinds"]
        if row["mention_rank"] is not None
    ).replace("-", "−")
    caption = (
        f"Frequent confusions; share of an area's pixels that is found, by size, in the first {found['scenes']} test "
        "scenes; IoU by how often captions name a class (triangles: things, circles: stuff)."
    )
    return [
        heading("Where it errs"),
        text(
            f"Mean IoU of things and of stuff: {said}. Rank correlation of a class's IoU with the number of images "
            "whose captions name it, within things and within stuff, with a 95 % interval from resampling classes "
            "(below zero, classes that are named often do worse; an interval that contains zero shows neither): "
            f"{ranks}."
        ),
        figure(results, "figures/mistakes.png", caption),
    ]


def viewer(results: Results) -> list[dict]:
    """Test scenes to choose from (pacl.evaluation.viewer); nothing where they weren't written."""
    data = results.viewer
    if not data or not data["scenes"]:
        return []
    said = (
        "Top row: the cosine of each pixel with the prompt. Colours span the lowest to the highest cosine that the "
        "method gives any prompt of the scene, so a prompt for something that isn't there should stay dark. Bottom "
        "row: the pixels that get the prompt among all classes. The scenes are the first ones with at least three "
        "labels, not picked."
    )
    methods = {name: NAMES[name] for name in data["scenes"][0]["prompts"][0]["methods"]}
    return [{"kind": "viewer", "text": said, "data": data | {"methods": methods}}]


def classification(results: Results) -> list[dict]:
    measured = results.metrics["classification"]
    picture = figure(results, "figures/classification.png", "Zero-shot accuracy by set.")
    content = [
        text(
            "Three scores of an image with a class: CLIP's cosine, PACL's φ, and both together with a weight for PACL "
            "that is chosen on validation images."
        )
    ]
    if measured is None:
        return [*content, missing("classification/classification.json"), picture]
    if not measured:
        return [*content, text("This source has no classification sets.")]
    sets = pd.DataFrame(measured).T
    sets.loc[f"mean of {len(measured)}"] = sets.mean()
    lines = [[name.replace("_", " "), *map(percent, values)] for name, values in sets.iterrows()]
    columns = ["Set", *(f"{NAMES[method]}, %" for method in sets)]
    caption = "Measured here: zero-shot accuracy"
    return [*content, table(columns, lines, caption=caption, strong=(len(measured),)), picture, *gains(results)]


def gains(results: Results) -> list[dict]:
    """Accuracy minus CLIP's with intervals, and the number of sets where it is above or below zero."""
    measured = results.gains
    if measured is None or measured.empty:
        return []
    said = []
    for method, rows in measured.groupby("method", sort=False):
        mean, sets = rows[rows["set"] == "mean"].iloc[0], rows[rows["set"] != "mean"]
        said.append(
            f"**{NAMES[method]}**: {percent(mean.difference, '+')} points on average "
            f"[{percent(mean.low, '+')}, {percent(mean.high, '+')}]; of {len(sets)} sets, the interval is above zero "
            f"on {(sets.low > 0).sum()} and below on {(sets.high < 0).sum()}."
        )
    caption = "Accuracy minus CLIP's, by set, with 95 % intervals."
    return [
        heading("Is it a general improvement?"),
        text(" ".join(said) + " The 95 % intervals come from resampling images."),
        figure(results, "figures/classification_differences.png", caption),
    ]


def interval(bounds: list[float] | None, form) -> str:
    return f"{form(bounds[0])} – {form(bounds[1])}" if bounds else "–"


def by_method(rows: pd.DataFrame, keys: list[str], value: str, *, caption: str = "", screen: bool = False) -> dict:
    """A table in percent with one column for each method; PACL follows CLIP, PACL minus CLIP is the last column."""
    methods = list(dict.fromkeys(rows.method))
    both = {"pacl", "clip"} <= set(methods)
    if both:
        methods.remove("pacl")
        methods.insert(methods.index("clip") + 1, "pacl")
    lines = []
    for _, of_key in rows.groupby(keys, sort=False):
        values = dict(zip(of_key.method, of_key[value], strict=True))
        gain = values.get("pacl", math.nan) - values.get("clip", math.nan)
        cells = [percent(values.get(method)) for method in methods]
        lines.append([*of_key.iloc[0][keys], *cells, *[percent(gain, "+")] * both])
    names = [*map(capital, keys), *(f"{NAMES[method]}, %" for method in methods), *["PACL − CLIP"] * both]
    return table(names, lines, caption=caption, screen=screen)


def published(metric: str) -> pd.DataFrame:
    """The literature's numbers of one metric, as they are written."""
    rows = pd.read_csv(project_root() / "data/published.csv", dtype=str, keep_default_na=False)
    return rows[rows.metric == metric]


def literature_patches() -> dict:
    lines = published("patch accuracy")[["method", "backbone", "value", "source"]].values.tolist()
    columns = ["Method", "Backbone", "Patch accuracy, %", "Source"]
    return table(columns, lines, caption=f"{LITERATURE}: Pascal VOC", outside=True)


def literature_segmentation() -> dict:
    lines = []
    for (method, backbone), rows in published("mIoU").groupby(["method", "backbone"], sort=False):
        values = {row.benchmark: row.value + "?" * (row.certainty == "uncertain") for row in rows.itertuples()}
        sources = " · ".join(dict.fromkeys(rows.source.str.split(";").str[0]))
        lines.append([method, backbone or "–", *(values.get(name, "–") for name in COLUMNS), sources])
    strong = tuple(i for i, line in enumerate(lines) if line[0] == "PACL, as claimed")
    caption = f"{LITERATURE}: mIoU in %. None of these was measured here. “?”: uncertain."
    columns = ["Method", "Backbone", *COLUMNS.values(), "First described in"]
    return table(columns, lines, caption=caption, strong=strong, outside=True)
