"""The report's chapters with measurements, and the literature's numbers beside them (paper, section 4)."""

import math
from pathlib import Path

import pandas as pd

from pacl.figures.charts import NAMES
from pacl.report.blocks import capital, figure, fold, heading, load, missing, percent, table, text
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


def patch_alignment(folder: Path) -> list[dict]:
    measured, by_class = load(folder, "patch_alignment.json"), load(folder, "patch_accuracy.csv")
    content = [
        text(
            "A patch's label is the majority label of its pixels, its prediction the class whose text is nearest. "
            "Coherence: how well the cosine of two patches of different images tells whether they show one class "
            "(area under the ROC curve; chance is half). Colours alone: the mean and deviation of a patch's colours."
        )
    ]
    if measured:
        rows = [
            [
                method_name(m),
                percent(v["accuracy"]) if "accuracy" in v else "–",
                interval(v.get("accuracy_interval"), percent),
                f"{v['auc']:.3f}" if "auc" in v else "–",
                interval(v.get("auc_interval"), "{:.3f}".format),
            ]
            for m, v in measured.items()
        ]
        columns = ["Method", "Patch accuracy, %", "95 % interval", "Coherence AUC", "95 % interval"]
        content.append(table(columns, rows, caption="Measured here; intervals resample images"))
        content += less_coherent(measured)
    content += [] if measured else [missing("patch_alignment.json")]
    content += [
        literature_patches(),
        figure(folder, "patch_roc.png", "Are patches of one class more alike than patches of two?"),
        figure(
            folder,
            "patch_map.png",
            "Patches (dots) and class texts (stars) in one plane by t-SNE, ten classes: before and after training. A "
            "line leads from a class's text to the middle of its patches; texts in one place hide each other.",
        ),
        figure(folder, "patch_accuracy.png", "Patch accuracy by class."),
    ]
    if by_class is None:
        return [*content, missing("patch_accuracy.csv")]
    by_class = by_class.assign(method=by_class.method.map(method_name))
    return [*content, fold("Patch accuracy of every class", [by_method(by_class, ["class", "patches"], "accuracy")])]


def less_coherent(measured: dict) -> list[dict]:
    """A sentence where PACL's coherence lies below that of CLIP's tokens."""
    pacl, clip = (measured.get(method, {}).get("auc", math.nan) for method in ("pacl", "clip"))
    if not pacl < clip:
        return []
    return [
        text(
            f"PACL's embeddings are less coherent by this measure than CLIP's own tokens ({pacl:.3f} against "
            f"{clip:.3f}); whether patches of a class are alike and whether they lie near its text are two questions."
        )
    ]


def segmentation(folder: Path) -> list[dict]:
    measured, by_class = load(folder, "segmentation.json"), load(folder, "iou_by_class.csv")
    content = [
        text(
            "Every pixel gets the class whose text its patch is nearest to. One confusion matrix over the whole test "
            "split, mean IoU over the classes that occur. MaskCLIP, SCLIP, NACLIP and ClearCLIP read CLIP's last block "
            "in other ways and train nothing."
        )
    ]
    content += measured_segmentation(measured) if measured else [missing("segmentation.json")]
    content += [
        figure(folder, "protocols.png", "Mean IoU by benchmark and protocol."),
        literature_segmentation(),
        heading("Class by class"),
    ]
    content.append(figure(folder, "iou_by_class.png", "IoU by class."))
    content += [missing("iou_by_class.csv")] if by_class is None else class_tables(by_class)
    return [
        *content,
        heading("Where is it?"),
        figure(
            folder, "heat_maps.png", "The cosine of every pixel with one text; each map is scaled to its own range."
        ),
        heading("Whole scenes"),
        figure(
            folder,
            "segmentation_grid.png",
            "Scenes, their true label maps, CLIP's and PACL's; areas without room for a name have none.",
        ),
        *errors(folder),
    ]


def measured_segmentation(measured: dict) -> list[dict]:
    """Tables of mIoU and of pixel accuracy: a benchmark and protocol a row, a method a column, PACL's lead."""
    tables = []
    for key, title in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy")):
        rows = [
            (benchmark, protocol, method_name(m), v[key])
            for benchmark, of_benchmark in measured.items()
            for protocol, of_protocol in of_benchmark.items()
            for m, v in of_protocol.items()
        ]
        frame = pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "value"])
        shown = by_method(frame, ["benchmark", "protocol"], "value", caption=f"Measured here: {title} in %")
        tables.append(shown if key == "miou" else fold(capital(title), [shown]))
    return tables


def errors(folder: Path) -> list[dict]:
    """Which classes are confused; things and stuff, small and large, often and rarely named."""
    found = load(folder, "errors.json")
    if not found:
        return []
    said = ", ".join(f"{row['method']} {percent(row['iou'])} % on {row['kind']}" for row in found["kinds"])
    ranks = ", ".join(
        "{method} {mention_rank:+.2f} ({0:+.2f} to {1:+.2f}) on the {classes} {kind}".format(
            *row["mention_interval"], **row
        ).replace("-", "−")
        for row in found["kinds"]
        if row["mention_rank"] is not None
    )
    return [
        heading("Where it errs"),
        text(
            f"Mean IoU of things and of stuff: {said}. Rank correlation of a class's IoU with the number of images "
            f"whose captions name it, within things and within stuff, with a 95 % interval that resamples classes "
            f"(below zero: the often named do worse; an interval that holds zero shows neither): {ranks}."
        ),
        figure(
            folder,
            "errors.png",
            f"Frequent confusions; areas found, by size, in the first {found['scenes']} test scenes; IoU by how often "
            "a class is named (triangles: things, circles: stuff).",
        ),
    ]


def class_tables(by_class: pd.DataFrame) -> list[dict]:
    """One fold a benchmark, a table a protocol: a class a row, its IoU by method; on paper the first protocol's."""
    folds = []
    for benchmark, rows in by_class.groupby("benchmark", sort=False):
        rows = rows.assign(method=rows.method.map(method_name))
        tables = [
            by_method(of_protocol, ["class"], "iou", caption=f"{benchmark}, {protocol} protocol", screen=number > 0)
            for number, (protocol, of_protocol) in enumerate(rows.groupby("protocol", sort=False))
        ]
        folds.append(fold(f"{benchmark}: IoU of {rows['class'].nunique()} classes", tables))
    return folds


def viewer(folder: Path) -> list[dict]:
    """Test scenes to choose from (pacl.evaluation.viewer), or nothing where they weren't written."""
    data = load(folder, "viewer.json")
    if not data or not data["scenes"]:
        return []
    said = (
        "Top row: the cosine of every pixel with the prompt; colours run from the lowest to the highest cosine that "
        "the method has with any prompt of the scene, so a prompt that isn't there should stay dark. Bottom row: the "
        "pixels that get the prompt among all classes. The scenes are the first ones with three labels or more, not "
        "picked."
    )
    methods = {name: method_name(name) for name in data["scenes"][0]["prompts"][0]["methods"]}
    return [{"kind": "viewer", "text": said, "data": data | {"methods": methods}}]


def classification(folder: Path) -> list[dict]:
    measured = load(folder, "classification.json")
    content = [
        text(
            "Three scores of an image with a class: CLIP's cosine, PACL's φ, and both together, PACL's weight chosen "
            "on validation images."
        )
    ]
    picture = figure(folder, "classification.png", "Zero-shot accuracy by set.")
    if measured is None:
        return [*content, missing("classification.json"), picture]
    if not measured:
        return [*content, text("This source has no classification sets.")]
    methods = list(next(iter(measured.values())))
    lines = [[name.replace("_", " "), *(percent(values[m]) for m in methods)] for name, values in measured.items()]
    mean = {m: sum(values[m] for values in measured.values()) / len(measured) for m in methods}
    lines.append([f"mean of {len(measured)}", *(percent(mean[m]) for m in methods)])
    result = table(
        ["Set", *(f"{method_name(m)}, %" for m in methods)],
        lines,
        caption="Measured here: zero-shot accuracy",
        strong=(len(lines) - 1,),
    )
    return [*content, result, picture, *gains(folder)]


def gains(folder: Path) -> list[dict]:
    """Accuracy minus CLIP's with intervals, and in how many sets it is above or below zero."""
    measured = load(folder, "classification.csv")
    if measured is None or measured.empty:
        return []
    said = []
    for method, rows in measured.groupby("method", sort=False):
        mean, sets = rows[rows["set"] == "mean"].iloc[0], rows[rows["set"] != "mean"]
        said.append(
            f"**{method_name(method)}**: {percent(mean.difference, '+')} points on average "
            f"[{percent(mean.low, '+')}, {percent(mean.high, '+')}]; of {len(sets)} sets, the interval lies above zero "
            f"on {(sets.low > 0).sum()} and below on {(sets.high < 0).sum()}."
        )
    return [
        heading("Is it a general improvement?"),
        text(" ".join(said) + " Intervals are of 95 %, resampling images."),
        figure(folder, "classification_differences.png", "Accuracy minus CLIP's, by set, with 95 % intervals."),
    ]


def method_name(method: str) -> str:
    return NAMES.get(method, method)


def interval(bounds: list[float] | None, form) -> str:
    return f"{form(bounds[0])} – {form(bounds[1])}" if bounds else "–"


def by_method(rows: pd.DataFrame, keys: list[str], value: str, *, caption: str = "", screen: bool = False) -> dict:
    """A table with one column a method, in percent, and PACL minus CLIP where both are columns, PACL's then after
    CLIP's.
    """
    methods = list(dict.fromkeys(rows.method))
    both = {"PACL", "CLIP"} <= set(methods)
    if both:
        methods.remove("PACL")
        methods.insert(methods.index("CLIP") + 1, "PACL")
    lines = []
    for _, of_key in rows.groupby(keys, sort=False):
        values = dict(zip(of_key.method, of_key[value], strict=True))
        cells = [percent(values.get(method)) for method in methods]
        gain = [percent(values.get("PACL", math.nan) - values.get("CLIP", math.nan), "+")] if both else []
        lines.append([*of_key.iloc[0][keys], *cells, *gain])
    names = [*map(capital, keys), *(f"{m}, %" for m in methods), *["PACL − CLIP"] * both]
    return table(names, lines, caption=caption, screen=screen)


def published() -> pd.DataFrame:
    return pd.read_csv(project_root() / "data/published.csv", dtype=str, keep_default_na=False)


def literature_patches() -> dict:
    rows = published()
    rows = rows[rows.metric == "patch accuracy"]
    lines = [[r.method, r.backbone, r.value, r.source] for r in rows.itertuples()]
    return table(
        ["Method", "Backbone", "Patch accuracy, %", "Source"], lines, caption=f"{LITERATURE}: Pascal VOC", outside=True
    )


def literature_segmentation() -> dict:
    rows = published()
    rows = rows[rows.metric == "mIoU"]
    lines = []
    for (method, backbone), group in rows.groupby(["method", "backbone"], sort=False):
        values = {r.benchmark: r.value + "?" * (r.certainty == "uncertain") for r in group.itertuples()}
        lines.append(
            [
                method,
                backbone or "–",
                *(values.get(name, "–") for name in COLUMNS),
                " · ".join(dict.fromkeys(group.source.str.split(";").str[0])),
            ]
        )
    strong = tuple(i for i, line in enumerate(lines) if line[0] == "PACL, as claimed")
    caption = f"{LITERATURE}: mIoU in %. None of these was measured here. “?”: uncertain."
    return table(
        ["Method", "Backbone", *COLUMNS.values(), "First described in"],
        lines,
        caption=caption,
        strong=strong,
        outside=True,
    )
