"""The report's chapters with measurements, and the literature's numbers beside them (paper, section 4)."""

import math
from pathlib import Path

import pandas as pd

from pacl.blocks import bars, capital, figure, fold, heading, load, missing, percent, table, text
from pacl.config import project_root
from pacl.plots import NAMES

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
GROUPS = {
    "scale": "Inner softmax: scoring and scale",
    "pooling": "Own attention for every pair, or for the matched text only",
    "embedder": "The embedder's form",
    "pairs": "Number of image-caption pairs",
    "nouns": "Noun prompts beside captions",
    "stride": "Token stride at inference",
}


def patch_alignment(folder: Path) -> list[dict]:
    measured, by_class = load(folder, "patch_alignment.json"), load(folder, "patch_accuracy.csv")
    content = [
        text(
            "A patch's label is the majority label of its pixels, its prediction the class whose text is nearest. "
            "Coherence: how well the cosine of two patches of different images tells whether they show one class "
            "(area under the ROC curve; chance is half)."
        )
    ]
    if measured:
        rows = [[method_name(m), percent(v["accuracy"]), f"{v['auc']:.3f}"] for m, v in measured.items()]
        content.append(table(["Method", "Patch accuracy, %", "Coherence AUC"], rows, caption="Measured here"))
    content += [] if measured else [missing("patch_alignment.json")]
    content += [
        literature_patches(),
        figure(folder, "patch_roc.png", "Are patches of one class more alike than patches of two?"),
        figure(folder, "patch_accuracy.png", "Patch accuracy by class."),
    ]
    if by_class is None:
        return [*content, missing("patch_accuracy.csv")]
    by_class = by_class.assign(method=by_class.method.map(method_name))
    return [*content, fold("Patch accuracy of every class", [by_method(by_class, ["class", "patches"], "accuracy")])]


def segmentation(folder: Path) -> list[dict]:
    measured, by_class = load(folder, "segmentation.json"), load(folder, "iou_by_class.csv")
    content = [
        text(
            "Every pixel gets the class whose text its patch is nearest to. One confusion matrix over the whole test "
            "split, mean IoU over the classes that occur."
        )
    ]
    content.append(measured_segmentation(measured) if measured else missing("segmentation.json"))
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
        figure(folder, "segmentation_grid.png", "Scenes, their true label maps, and each method's."),
    ]


def measured_segmentation(measured: dict) -> dict:
    rows = []
    for benchmark, of_benchmark in measured.items():
        for protocol, of_protocol in of_benchmark.items():
            miou, pixels = ({m: v[key] for m, v in of_protocol.items()} for key in ("miou", "pixel_accuracy"))
            cells = [percent(of_method.get(m)) for of_method in (miou, pixels) for m in ("clip", "pacl")]
            gain = percent(miou["pacl"] - miou["clip"], "+") if {"clip", "pacl"} <= set(miou) else "–"
            rows.append([benchmark, protocol, *cells[:2], gain, *cells[2:]])
    names = ["Benchmark", "Protocol", "CLIP mIoU", "PACL mIoU", "PACL − CLIP", "CLIP pixels", "PACL pixels"]
    return table(names, rows, caption="Measured here: mIoU and pixel accuracy in %")


def class_tables(by_class: pd.DataFrame) -> list[dict]:
    """One folded table a benchmark: a class a row, its IoU by protocol and method."""
    folds = []
    for i, (benchmark, rows) in enumerate(by_class.groupby("benchmark", sort=False)):
        rows = rows.assign(method=rows.protocol + " " + rows.method.map(method_name))
        folds.append(
            fold(
                f"{benchmark}: IoU of {rows['class'].nunique()} classes",
                [by_method(rows, ["class"], "iou")],
                shown=i == 0,
            )
        )
    return folds


def viewer(folder: Path) -> list[dict]:
    """Test scenes to choose from (pacl.viewer), or nothing where they weren't written."""
    data = load(folder, "viewer.json")
    if not data or not data["scenes"]:
        return []
    said = text(
        "Choose a test scene and a prompt. Above, the cosine of every pixel with the prompt: colours run from the "
        "lowest to the highest cosine that the method has with any prompt of the scene, so a prompt that isn't there "
        "should stay dark. Below, the pixels that get the prompt among all classes. The scenes are the first ones with "
        "three labels or more, not picked."
    )
    methods = {name: method_name(name) for name in data["scenes"][0]["prompts"][0]["methods"]}
    return [said, {"kind": "viewer", "data": data | {"methods": methods}}]


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
    return [*content, result, picture]


def pooling(folder: Path) -> list[dict]:
    """All-pairs phi against matched-only pooling, where that ablation was run; else nothing."""
    runs = load(folder, "ablations.csv")
    runs = runs[runs.group == "pooling"] if runs is not None else []
    if not len(runs) or not {"default", "matched_only"} <= set(runs.point):
        return []
    ours, others = (runs[runs.point == point] for point in ("default", "matched_only"))
    metrics = [name for name in metric_columns(runs) if runs[name].notna().all()]
    gains = " and ".join(
        f"{percent(ours[name].mean() - others[name].mean(), '+')} points of {metric_name(name)}" for name in metrics
    )
    said = text(
        "The paper's compatibility pools an image's patches anew for **every** image-text pair. Public "
        "re-implementations pool with the matched text only, and contrast that one vector with all texts: another "
        f"objective, which lets the right answer into the image's vector. All else equal, the paper's own makes a "
        f"difference of **{gains}** (means over seeds: {ours.seed.nunique()})."
    )
    pictures = [
        bars(
            metric_title(name),
            [("all pairs", *mean_and_text(ours[name])), ("matched only", *mean_and_text(others[name]))],
        )
        for name in metrics
    ]
    return [said, *pictures]


def ablations(folder: Path) -> list[dict]:
    runs, findings = load(folder, "ablations.csv"), load(folder, "findings.json") or {}
    if runs is None:
        return [missing("ablations.csv")]
    content = [
        text(
            "The paper leaves choices open, and public re-implementations made other ones. Each point changes one "
            "thing; means ± standard deviation over seeds."
        )
    ]
    known = [*GROUPS, *(name for name in dict.fromkeys(runs.group) if name not in GROUPS)]
    for group in (name for name in known if name in set(runs.group)):
        rows = runs[runs.group == group]
        metrics = metric_columns(rows)
        lines = [
            [setting, *(spread(of_setting[m]) for m in metrics), of_setting.seed.nunique()]
            for setting, of_setting in rows.groupby("setting", sort=False)
        ]
        content.append(heading(GROUPS.get(group, group)))
        content += [text(f"**Finding.** {capital(findings[group])}")] if group in findings else []
        content.append(figure(folder, f"ablation_{group}.png", "Bars are means over seeds, dots single seeds."))
        content.append(table(["Setting", *(f"{metric_title(m)}, %" for m in metrics), "Seeds"], lines))
    return content


def mean_and_text(values: pd.Series) -> tuple[float, str]:
    return values.mean(), f"{spread(values)} %"


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation over seeds in percent; the mean alone for one run."""
    values = values.dropna()
    if len(values) < 2:
        return percent(values.mean())
    return f"{percent(values.mean())} ± {percent(values.std())}"


def metric_columns(runs: pd.DataFrame) -> list[str]:
    return [
        name for name in runs.columns if name not in ("point", "group", "setting", "seed") and runs[name].notna().any()
    ]


def metric_title(column: str) -> str:
    return "Patch accuracy" if column == "patch_accuracy" else metric_name(column)


def metric_name(column: str) -> str:
    return "patch accuracy" if column == "patch_accuracy" else f"{column} mIoU"


def method_name(method: str) -> str:
    return NAMES.get(method, method)


def by_method(rows: pd.DataFrame, keys: list[str], value: str) -> dict:
    """A table with one column a method, in percent, and PACL minus CLIP where both are columns."""
    methods = list(dict.fromkeys(rows.method))
    both = {"PACL", "CLIP"} <= set(methods)
    lines = []
    for _, of_key in rows.groupby(keys, sort=False):
        values = dict(zip(of_key.method, of_key[value], strict=True))
        cells = [percent(values.get(method)) for method in methods]
        gain = [percent(values.get("PACL", math.nan) - values.get("CLIP", math.nan), "+")] if both else []
        lines.append([*of_key.iloc[0][keys], *cells, *gain])
    return table([*map(capital, keys), *(f"{m}, %" for m in methods), *["PACL − CLIP"] * both], lines)


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
