"""The report's chapters on what matters: the pooling, the ablations, other worlds (paper, section 4)."""

import pandas as pd

from pacl.figures.charts import NAMES, measures
from pacl.report.page import bars, capital, figure, heading, joined, missing, percent, say, table, text, words
from pacl.report.results import Results


def pooling(results: Results) -> list[dict]:
    """All-pairs phi against matched-only pooling; nothing where that ablation wasn't run."""
    runs = results.ablations
    runs = runs[runs.group == "pooling"] if runs is not None else []
    if not len(runs) or not {"default", "matched_only"} <= set(runs.point):
        return []
    ours, others = (runs[runs.point == point] for point in ("default", "matched_only"))
    metrics = {metric: name for metric, name in measures(runs).items() if runs[metric].notna().all()}
    gains = ", ".join(
        f"{percent(ours[metric].mean() - others[metric].mean(), '+')} points of {name}"
        for metric, name in metrics.items()
    )
    said = say("pooling", gains=gains, seeds=ours.seed.nunique(), smaller=smaller(results))
    rows = {"all pairs": ours, "matched only": others}
    return [said] + [
        bars(title(name), [(label, of[metric].mean(), f"{spread(of[metric])} %") for label, of in rows.items()])
        for metric, name in metrics.items()
    ]


def smaller(results: Results) -> str:
    """Why the ablations' numbers differ from the main run's."""
    base = results.params.ablations.base
    settings = ", ".join(f"{base[name]:,} {name}" for name in ("pairs", "epochs") if name in base)
    benchmark = next((name for name in measures(results.ablations) if name != "patch_accuracy"), "the benchmark")
    return words()["smaller"].format(settings=settings, benchmark=benchmark)


def ablations(results: Results) -> list[dict]:
    runs = results.ablations
    if runs is None:
        return [missing("ablations/ablations.csv")]
    content = [say("ablations", smaller=smaller(results)), *what_matters(runs, results.findings)]
    for group, rows in runs.groupby("group", sort=False):
        metrics, found = measures(rows), results.findings.get(group, {})
        lines = [
            [setting, *(spread(of_setting[metric]) for metric in metrics), of_setting.seed.nunique()]
            for setting, of_setting in rows.groupby("setting", sort=False)
        ]
        content.append(heading(found.get("title", group)))
        content += [text(f"**Finding.** {capital(found['finding'])}")] if found else []
        content.append(figure(results, f"ablation_{group}", drawn(rows, found.get("trained", True))))
        content.append(table(["Setting", *(f"{title(name)}, %" for name in metrics.values()), "Seeds"], lines))
    return [*content, *logit_scales(results), *worlds(results)]


def drawn(rows: pd.DataFrame, trained: bool) -> str:
    """What the bars of a group's figure are, and the dark one among them."""
    kept = "the setting that all other points keep" if trained else "the main run's setting"
    bar = f" The dark bar is {kept}." if (rows.point == "default").any() else ""
    runs = "One run for each setting." if rows.seed.nunique() == 1 else "Bars are means over seeds, dots single seeds."
    return runs + bar


def what_matters(runs: pd.DataFrame, findings: dict) -> list[dict]:
    """The gap in mIoU between each choice's best and worst setting, on the benchmark where it is largest; the largest
    gap comes first.
    """
    gaps, left_out = [], []
    for group, rows in runs.groupby("group", sort=False):
        found = findings.get(group, {})
        left_out += found.get("left_out", [])
        rows = rows[~rows.setting.isin(found.get("left_out", []))]
        means = rows.groupby("setting")[[name for name in measures(rows) if name != "patch_accuracy"]].mean()
        gap = means.max() - means.min()
        gaps += [(found.get("title", group), gap.max(), gap.idxmax())] if len(gap) else []
    largest = max((gap for _, gap, _ in gaps), default=0) or 1
    rows = [(choice, gap / largest, f"{percent(gap)} points ({name})") for choice, gap, name in gaps]
    rows.sort(key=lambda row: -row[1])
    title = "How much each choice matters: mIoU of its best setting minus its worst"
    unused = [text(f"Settings that nobody uses are left out: {', '.join(left_out)}.")] if left_out else []
    return [bars(title, rows, wide=True, stressed=False), joined([say("what_matters"), *unused])]


def logit_scales(results: Results) -> list[dict]:
    """The search for logit scales; nothing where there are no validation scenes."""
    measured = results.logit_scales
    if measured is None:
        return [missing("ablations/logit_scales.csv")]
    if measured.empty:
        return []
    keys = ["protocol", "method"]
    by_scale = measured.pivot(index=keys, columns="logit_scale", values="voc21")
    order = map(tuple, measured[keys].drop_duplicates().values)
    lines = [[name, NAMES[method], *map(percent, by_scale.loc[name, method])] for name, method in order]
    columns = ["Rule or protocol", "Method", *(f"× {scale:g}" for scale in by_scale.columns)]
    return [heading("Which logit scale?"), say("logit_scales"), table(columns, lines, tight=True)]


def worlds(results: Results) -> list[dict]:
    """The effect in worlds of other seeds; nothing for photographs."""
    runs = results.worlds
    if runs is None or runs.empty:
        return []
    metrics = measures(runs)
    lines = [[row.seed, NAMES[row.method], *map(percent, row[list(metrics)])] for _, row in runs.iterrows()]
    first, name = next(iter(metrics.items()))
    by_method = runs.pivot(index="seed", columns="method", values=first)
    least = (by_method["pacl"] - by_method["clip"]).min()
    return [
        heading("Is it one lucky world?"),
        say("worlds", count=len(by_method), measure=name, least=percent(least)),
        figure(results, "worlds"),
        table(["World's seed", "Method", *(f"{title(name)}, %" for name in metrics.values())], lines),
    ]


def title(name: str) -> str:
    """A measure's name at the head of a column or a chart."""
    return name.replace("patch", "Patch")


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation over seeds in percent; the mean alone for one run."""
    values = values.dropna()
    return percent(values.mean()) + (f" ± {percent(values.std())}" if len(values) > 1 else "")
