"""The report's chapters on what matters: the pooling, the ablations, other worlds (paper, section 4)."""

from pathlib import Path

import pandas as pd

from pacl.evaluation.ablations.findings import GROUPS, STRAW_MAN
from pacl.figures.charts import NAMES
from pacl.report.blocks import bars, capital, figure, heading, load, missing, percent, table, text

GAPS = (
    "Each gap is taken on the benchmark where it is larger. Strides, templates of class names and background rules are "
    f"readings of the main run's model, all others trainings of their own; {STRAW_MAN} as a class, in the place of a "
    "rule, is left out."
)


def pooling(folder: Path, base: dict) -> list[dict]:
    """All-pairs phi against matched-only pooling, where that ablation was run; else nothing. base: the settings of
    `train` that all ablations change.
    """
    runs = load(folder, "ablations.csv")
    runs = runs[runs.group == "pooling"] if runs is not None else []
    if not len(runs) or not {"default", "matched_only"} <= set(runs.point):
        return []
    ours, others = (runs[runs.point == point] for point in ("default", "matched_only"))
    metrics = [name for name in metric_columns(runs) if runs[name].notna().all()]
    gains = ", ".join(
        f"{percent(ours[name].mean() - others[name].mean(), '+')} points of {metric_name(name)}" for name in metrics
    )
    said = text(
        "The paper's compatibility pools an image's patches anew for **every** image-text pair. Public "
        "re-implementations pool with the matched text only, and contrast that one vector with all texts: another "
        f"objective, which lets the right answer into the image's vector. All else equal, the paper's own makes a "
        f"difference of **{gains}** (means over {ours.seed.nunique()} seeds). {smaller(base, runs)}"
    )
    pictures = [
        bars(
            metric_title(name),
            [("all pairs", *mean_and_text(ours[name])), ("matched only", *mean_and_text(others[name]))],
        )
        for name in metrics
    ]
    return [said, *pictures]


def smaller(base: dict, runs: pd.DataFrame) -> str:
    """Why an ablation's numbers aren't those of the main run."""
    settings = ", ".join(f"{value:,} {name}" for name, value in base.items() if name in ("pairs", "epochs"))
    benchmark = next((name for name in metric_columns(runs) if name != "patch_accuracy"), "the benchmark")
    return (
        f"Ablations train less than the main run ({settings}), so that each seed can be trained anew, and are measured "
        f"at CLIP's plain patch grid, patch accuracy over the classes of {benchmark}: compare their numbers with each "
        f"other, not with other chapters'."
    )


def ablations(folder: Path, base: dict) -> list[dict]:
    runs, findings = load(folder, "ablations.csv"), load(folder, "findings.json") or {}
    if runs is None:
        return [missing("ablations.csv")]
    content = [
        text(
            "The paper leaves choices open, and public re-implementations made other ones. Each point changes one "
            "thing; means ± standard deviation over seeds. What changes at inference only is the main run's model, "
            f"read in other ways on the first test scenes: one run a setting. {smaller(base, runs)}"
        ),
        *what_matters(runs[runs.setting != STRAW_MAN], findings),
    ]
    for group, rows in runs.groupby("group", sort=False):
        metrics = metric_columns(rows)
        lines = [
            [setting, *(spread(of_setting[m]) for m in metrics), of_setting.seed.nunique()]
            for setting, of_setting in rows.groupby("setting", sort=False)
        ]
        found = findings.get(group, {})
        content.append(heading(found.get("title", group)))
        content += [text(f"**Finding.** {capital(found['finding'])}")] if found else []
        content.append(figure(folder, f"ablation_{group}.png", drawn(group, rows)))
        content.append(table(["Setting", *(f"{metric_title(m)}, %" for m in metrics), "Seeds"], lines))
    return [*content, *logit_scales(folder), *worlds(folder)]


def drawn(group: str, rows: pd.DataFrame) -> str:
    """What the bars of a group's figure are, and the dark one among them."""
    kept = "the setting that all other points keep" if group in GROUPS else "the main run's setting"
    bar = f" The dark bar is {kept}." if (rows.point == "default").any() else ""
    runs = "One run a setting." if rows.seed.nunique() == 1 else "Bars are means over seeds, dots single seeds."
    return runs + bar


def logit_scales(folder: Path) -> list[dict]:
    """The search for logit scales on validation scenes, or nothing where there are none."""
    measured = load(folder, "logit_scales.csv")
    if measured is None:
        return [missing("logit_scales.csv")]
    if measured.empty:
        return []
    order = measured[["protocol", "method"]].drop_duplicates()
    by_scale = measured.pivot(index=list(order), columns="logit_scale", values="voc21").loc[map(tuple, order.values)]
    lines = [
        [name, NAMES[method], *map(percent, row)]
        for (name, method), row in zip(by_scale.index, by_scale.values, strict=True)
    ]
    return [
        heading("Which logit scale?"),
        text(
            "A background rule's threshold means nothing without the logit scale that makes probabilities of cosines. "
            "mIoU on voc21 in %, first validation scenes: of PACL, each rule in the native protocol (each rule above "
            "has the scale that is best here); then of every method, each protocol with its own rule. A protocol has "
            "one scale for all methods, PACL's best: a row whose largest number stands elsewhere would gain by another."
        ),
        table(["Rule or protocol", "Method", *(f"× {scale:g}" for scale in by_scale.columns)], lines, tight=True),
    ]


def what_matters(runs: pd.DataFrame, findings: dict) -> list[dict]:
    """Each choice by the gap in mIoU between its best and its worst setting, on the benchmark where that is larger; the
    largest gap first.
    """
    gaps = {}
    for group, rows in runs.groupby("group", sort=False):
        means = rows.groupby("setting")[[name for name in metric_columns(rows) if name != "patch_accuracy"]].mean()
        gap = means.max() - means.min()
        if len(gap):
            gaps[findings.get(group, {}).get("title", group)] = gap.max(), gap.idxmax()
    largest = max((gap for gap, _ in gaps.values()), default=0) or 1
    rows = sorted(gaps.items(), key=lambda item: -item[1][0])
    said = [(name, gap / largest, f"{percent(gap)} points ({benchmark})") for name, (gap, benchmark) in rows]
    title = "How much each choice matters: mIoU of its best setting minus that of its worst"
    return [bars(title, said, wide=True, stressed=False), text(GAPS)]


def worlds(folder: Path) -> list[dict]:
    """The effect in worlds of other seeds, or nothing for photographs."""
    runs = load(folder, "worlds.csv")
    if runs is None or runs.empty:
        return []
    metrics = metric_columns(runs.drop(columns="method"))
    lines = [
        [f"{row.seed}", NAMES[row.method], *(percent(getattr(row, m)) for m in metrics)] for row in runs.itertuples()
    ]
    gain = runs.pivot(index="seed", columns="method", values=metrics[0])
    least = (gain["pacl"] - gain["clip"]).min()
    return [
        heading("Is it one lucky world?"),
        text(
            f"In {len(gain)} worlds drawn from other seeds, each with its own pairs, test scenes and embedder (the "
            f"CLIP is the same), PACL's {metric_name(metrics[0])} is at least {percent(least)} points above CLIP's. "
            "Training and measure are the ablations' short ones: compare these numbers with theirs, not with the main "
            "run's."
        ),
        figure(folder, "worlds.png", "CLIP and PACL in each world, joined by a line."),
        table(["World's seed", "Method", *(f"{metric_title(m)}, %" for m in metrics)], lines),
    ]


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
