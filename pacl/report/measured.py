"""The report's chapters with measurements, and the literature's numbers next to them (paper, section 4)."""

import math

import pandas as pd

from pacl.figures.charts import NAMES
from pacl.report.page import capital, figure, fold, heading, joined, missing, percent, say, table, text, words
from pacl.report.results import Results
from pacl.runtime.config import project_root

MEASURES = {
    "miou": "mIoU",
    "miou_foreground": "mIoU of the classes but background, which may be predicted",
    "miou_labelled": "mIoU of the classes that the test images show",
    "pixel_accuracy": "pixel accuracy",
}
CLAIMED, PACL_YEAR = "PACL, as claimed", 2023
LITERATURE = "On the real benchmarks, from the literature"
COLUMNS = {"voc21": "VOC21", "context60": "C60", "voc20": "VOC20", "context59": "C59"}
COLUMNS |= {"coco_stuff": "Stuff171", "cityscapes": "City", "ade20k": "ADE150"}


def patch_alignment(results: Results) -> list[dict]:
    measured, by_class = results.metrics["patch_alignment"], results.patch_accuracy
    few_scenes = measured and not any("auc" in of for of in measured.values())  # none of whose classes is on two
    figures = ("patch_map", "patch_accuracy") if few_scenes else ("patch_roc", "patch_map", "patch_accuracy")
    return [
        say("patch_alignment"),
        *(patch_table(measured) if measured else [missing("patch_alignment/patch_alignment.json")]),
        literature_patches(),
        *blocks(results),
        *(figure(results, name) for name in figures),
        missing("patch_alignment/patch_accuracy.csv")
        if by_class is None
        else fold("Patch accuracy of every class", [by_method(by_class, ["class", "patches"], "accuracy")]),
    ]


def patch_table(measured: dict) -> list[dict]:
    """Patch accuracy and coherence by method; a sentence where PACL's coherence is below that of CLIP's tokens."""
    rows = []
    for method, of in measured.items():
        accuracy = [percent(of.get("accuracy")), interval(of.get("accuracy_interval"), percent)]
        auc = [f"{of['auc']:.3f}" if "auc" in of else "–", interval(of.get("auc_interval"), "{:.3f}".format)]
        rows.append([NAMES[method], *accuracy, *auc])
    columns = ["Method", "Patch accuracy, %", "95 % interval", "Coherence AUC", "95 % interval"]
    shown = table(columns, rows, caption="Measured here; intervals from resampling images")
    pacl, clip = (measured.get(method, {}).get("auc", math.nan) for method in ("pacl", "clip"))
    return [shown, say("less_coherent", pacl=pacl, clip=clip)] if pacl < clip else [shown]


def blocks(results: Results) -> list[dict]:
    """Coherence of the tokens that each block of CLIP leaves; nothing where it wasn't measured."""
    areas = (results.blocks or {}).get("auc")
    if not areas:
        return []
    best = areas.index(max(areas))
    falls = "falls" if areas[-1] < areas[-3 if len(areas) > 2 else 0] else "does not fall"
    said = say("blocks", best=best + 1, highest=areas[best], last=areas[-1], count=len(areas), falls=falls)
    return [said, figure(results, "patch_blocks")]


def segmentation(results: Results) -> list[dict]:
    measured, by_class = results.metrics["segmentation"], results.iou_by_class
    return [
        say("segmentation"),
        *(segmentation_tables(measured) if measured else [missing("segmentation/segmentation.json")]),
        figure(results, "protocols"),
        literature_segmentation(),
        beside_its_time(),
        heading("Class by class"),
        figure(results, "iou_by_class"),
        *([missing("segmentation/iou_by_class.csv")] if by_class is None else class_tables(by_class)),
        heading("Where is it?"),
        figure(results, "heat_maps"),
        heading("Whole scenes"),
        figure(results, "segmentation_grid"),
        *mistakes(results),
    ]


def segmentation_tables(measured: dict) -> list[dict]:
    """Tables of MEASURES: one row for each benchmark and protocol, one column for each method. mIoU of the labelled
    classes has rows only where it is another number, mIoU without background those of benchmarks that have one.
    """
    tables = []
    for key, title in MEASURES.items():
        rows = [
            (benchmark, protocol, method, values[key])
            for benchmark, of_benchmark in measured.items()
            for protocol, of_protocol in of_benchmark.items()
            for method, values in of_protocol.items()
            if key in values and (key != "miou_labelled" or values[key] != values["miou"])
        ]
        if rows:
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
    found = results.mistakes
    if not found:
        return [missing("scenes/mistakes.json")]
    kinds = ", ".join(f"{NAMES[row['method']]} {percent(row['iou'])} % on {row['kind']}" for row in found["kinds"])
    form = "{0} {mention_rank:+.2f} ({1:+.2f} to {2:+.2f}) on the {classes} {kind}"
    ranked = [row for row in found["kinds"] if row["mention_rank"] is not None]
    ranks = ", ".join(form.format(NAMES[row["method"]], *row["mention_interval"], **row) for row in ranked)
    said = say("mistakes", kinds=kinds, ranks=ranks.replace("-", "−"))
    return [heading("Where it errs"), said, figure(results, "mistakes", scenes=found["scenes"])]


def viewer(results: Results) -> list[dict]:
    """Test scenes to choose from (pacl.evaluation.viewer)."""
    data = results.viewer
    if not data or not data["scenes"]:
        return []
    methods = {name: NAMES[name] for name in data["scenes"][0]["prompts"][0]["methods"]}
    which = words()["viewer_photos" if "credit" in data["scenes"][0] else "viewer_scenes"].format(len(data["scenes"]))
    return [{"kind": "viewer", "text": f"{words()['viewer']} {which}", "data": data | {"methods": methods}}]


def classification(results: Results) -> list[dict]:
    measured = results.metrics["classification"]
    content, picture = [say("classification")], figure(results, "classification")
    if measured is None:
        return [*content, missing("classification/classification.json"), picture]
    if not measured:
        return [*content, text("This source has no classification sets.")]
    sets = pd.DataFrame(measured).T
    if len(measured) > 1:
        sets.loc[f"mean of {len(measured)}"] = sets.mean()
    lines = [[name.replace("_", " "), *map(percent, values)] for name, values in sets.iterrows()]
    columns, caption = ["Set", *(f"{NAMES[method]}, %" for method in sets)], "Measured here: zero-shot accuracy"
    return [*content, table(columns, lines, caption=caption, strong=(len(measured),)), picture, *gains(results)]


def gains(results: Results) -> list[dict]:
    """Accuracy minus CLIP's with intervals, and the number of sets where it is above or below zero."""
    measured = results.gains
    if measured is None or measured.empty:
        return []
    said = []
    for method, rows in measured.groupby("method", sort=False):
        mean, sets = rows[rows["set"] == "mean"].iloc[0], rows[rows["set"] != "mean"]
        interval = {name: percent(mean[name], "+") for name in ("low", "high")}
        counts = {"sets": len(sets), "above": (sets.low > 0).sum(), "below": (sets.high < 0).sum()}
        kind = "gains" if len(sets) > 1 else "gain"
        said.append(say(kind, method=NAMES[method], mean=percent(mean.difference, "+"), **interval, **counts))
    told = joined([*said, say("gains_intervals")])
    return [heading("Is it a general improvement?"), told, figure(results, "classification_differences")]


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


def beside_its_time() -> dict:
    """Where PACL's published numbers stand among methods published up to its year."""
    rows = published("mIoU")
    first = rows.groupby(["benchmark", "method"]).value.first()
    ours = {name: float(first[name, CLAIMED]) for name in ("voc20", "context59")}
    maskclip = float(first["voc20", "MaskCLIP"])
    rows = rows[rows.source.str.extract(r"\b(20\d\d)", expand=False).astype(float) <= PACL_YEAR]
    rows = rows[(rows.benchmark == "context59") & (rows.method != CLAIMED)].set_index("method")
    others = rows.value.str.split("–").str[-1].astype(float)  # the upper end of a range
    number = others.max()
    place = "below" if ours["voc20"] < maskclip else "above"
    above = "above" if ours["context59"] > number else "below"
    return say(
        "beside_its_time", place=place, above=above, maskclip=maskclip, best=others.idxmax(), number=number, **ours
    )


def literature_segmentation() -> dict:
    lines = []
    for (method, backbone), rows in published("mIoU").groupby(["method", "backbone"], sort=False):
        values = {row.benchmark: row.value + "?" * (row.certainty == "uncertain") for row in rows.itertuples()}
        sources, numbers = rows.source.str.split(";").str[0].unique(), [values.get(name, "–") for name in COLUMNS]
        lines.append([method, backbone or "–", rows.supervision.iloc[0], *numbers, " · ".join(sources)])
    strong = tuple(i for i, line in enumerate(lines) if line[0] == CLAIMED)
    said = "None of these was measured here. “?”: uncertain. NACLIP's code today has other settings."
    columns = ["Method", "Backbone", "Supervision", *COLUMNS.values(), "First described in"]
    return table(columns, lines, caption=f"{LITERATURE}: mIoU in %. {said}", strong=strong, outside=True)
