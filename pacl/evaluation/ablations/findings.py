"""What the ablations ask, and what their runs answer (paper, section 3: its open choices); tables only, no torch."""

from pathlib import Path

import pandas as pd

from pacl.runtime.files import read_json, write_json

# group -> (its question, point -> what figures call it); `default` is the base setting, part of every group
GROUPS = {
    "pooling": (
        "Own attention for every pair, or for the matched text only?",
        {"default": "all pairs (the paper)", "matched_only": "matched only (public code)"},
    ),
    "scale": (
        "Inner softmax: scoring and scale",
        {
            "scale_1": "cosine × 1",
            "unit_1": "cosine × 1, of tokens of length 1 (public code)",
            "scale_3": "cosine × 3",
            "default": "cosine × 10",
            "scale_30": "cosine × 30",
            "scale_100": "cosine × 100",
            "dot_1": "dot × 1 (public code)",
            "dot_10": "dot × 10",
        },
    ),
    "temperature": (
        "Temperature of the loss: learned, or fixed?",
        {
            "default": "learned, as CLIP's",
            "fixed_100": "fixed, × 100 (CLIP's)",
            "fixed_10": "fixed, × 10 (public code)",
            "fixed_1": "fixed, × 1",
        },
    ),
    "activation": (
        "Weights of patches: softmax, or sigmoid?",
        {"default": "softmax (the paper)", "sigmoid_10": "sigmoid (public code)"},
    ),
    "embedder": ("Embedder", {"default": "residual (the paper)", "mlp": "MLP, no skip", "linear": "one linear layer"}),
    "text_embedder": (
        "Text embedder",
        {"default": "CLIP's, frozen (the paper)", "text_linear": "a linear layer trained as well (public code)"},
    ),
    "tokens": (
        "Which tokens does the embedder read?",
        {
            "default": "last block, after LayerNorm",
            "before_norm": "last block, before LayerNorm",
            "value": "MaskCLIP's values",
        },
    ),
    "pairs": (
        "Number of image-caption pairs",
        {"pairs_1000": "1,000", "default": "4,000", "pairs_20000": "20,000 (2.5 × the steps)"},
    ),
    "nouns": ("Noun prompts next to captions", {"default": "half noun prompts", "nouns_off": "captions only"}),
    "templates": (
        "Templates of noun prompts in training",
        {"templates_1": "one", "default": "seven (the paper)", "templates_80": "80 (ImageNet's)"},
    ),
    "batch": (
        "Pairs in a batch, equal steps",
        {"batch_32": "32 (half the pairs seen)", "default": "64", "batch_128": "128 (twice the pairs seen)"},
    ),
    "same_text": (
        "Are images with the same text each other's negatives?",
        {"default": "no, masked", "negatives_all": "yes"},
    ),
    "main_run": (
        "The main run's own setting, with three seeds",
        {"default": "smaller, as all points", "main_run": "as the main run"},
    ),
}

READINGS = {  # group of pacl.evaluation.ablations.readings -> its question
    "stride": "Token stride at inference, in one joint pass or in shifted passes",
    "prompts": "Templates of class names at inference",
    "background": "Background rule, each at its best logit scale on voc21",
}
STRAW_MAN = "the word “background”"  # a background class in place of a rule, which nobody uses

MEASURES = {
    "patch_accuracy": "patch accuracy",
    "voc_seen": "voc_seen mIoU",
    "voc20": "voc20 mIoU",
    "context59": "context59 mIoU",
    "coco_stuff": "coco_stuff mIoU",
    "voc21": "voc21 mIoU",
}


def point_table(folder: Path, points: dict) -> pd.DataFrame:
    """All runs of all points: columns group, point, setting, seed and the metrics; `default` is in every group, and a
    group without another point is left out.
    """
    rows = []
    for group, (_, settings) in GROUPS.items():
        own = {point: setting for point, setting in settings.items() if point in points}
        for point, setting in own.items() if own.keys() - {"default"} else ():
            runs = read_json(folder / f"{point}.json")["runs"]
            rows += [{"group": group, "point": point, "setting": setting, **run} for run in runs]
    return pd.DataFrame(rows)


def world_table(folder: Path) -> pd.DataFrame:
    """Columns seed, method and the metrics, of every world in reports/PROFILE/worlds."""
    worlds = sorted((read_json(path) for path in folder.glob("*.json")), key=lambda world: world["seed"])
    rows = [{"seed": w["seed"], "method": m, **w[m]} for w in worlds for m in ("clip", "pacl") if m in w]
    return pd.DataFrame(rows, columns=None if rows else ["seed", "method"])


def write_findings(folder: Path, runs: pd.DataFrame, scales: pd.DataFrame, worlds: pd.DataFrame) -> dict:
    """Writes findings.json and, as they are, ablations.csv, logit_scales.csv and worlds.csv; returns the findings.

    runs: `point_table` and the `readings_table` of pacl.evaluation.ablations.readings.
    """
    found = {group: entry(group, rows) for group, rows in runs.groupby("group", sort=False)}
    write_json(folder / "findings.json", found)
    for name, table in {"ablations": runs, "logit_scales": scales, "worlds": worlds}.items():
        table.round(6).to_csv(folder / f"{name}.csv", index=False)
    return found


def entry(group: str, rows: pd.DataFrame) -> dict:
    """What the report says of one group. trained: each setting is a training of its own, else a reading of one model.
    default: the setting that the others change, None without. left_out: settings that don't count as choices.
    """
    settings, rows = rows.setting.unique().tolist(), rows.dropna(axis=1, how="all")
    return {
        "title": GROUPS[group][0] if group in GROUPS else READINGS[group],
        "trained": group in GROUPS,
        "finding": finding(rows),
        "settings": settings,
        "default": next(iter(rows.setting[rows.point == "default"]), None),
        "left_out": [setting for setting in settings if setting == STRAW_MAN],
    }


def finding(rows: pd.DataFrame) -> str:
    """Which setting is best, and what each measure says: the best setting, those tied with it, and the last.

    Settings are tied with the best up to the first that lies further from it than runs of either with other seeds.
    """
    ranked = {name: ranking(rows, metric) for metric, name in MEASURES.items() if metric in rows}
    ahead = [settings.index[0] for settings, tied in ranked.values() if tied == 1]
    if rows.seed.nunique() == 1:
        verdict = "One run a setting."
    elif len(set(ahead)) > 1:
        verdict = "The measures disagree."
    elif not ahead:
        verdict = "No clear winner: differences are within seed noise."
    else:
        ties = f" (tied on {len(ranked) - len(ahead)} of {len(ranked)} measures)" * (len(ahead) < len(ranked))
        verdict = f"Best: {ahead[0]}{ties}."
    return f"{verdict} By {'; by '.join(f'{name}: {in_words(*one)}' for name, one in ranked.items())}."


def ranking(rows: pd.DataFrame, metric: str) -> tuple[pd.Series, int]:
    """The mean of each setting in percent, the best first, and how many settings are tied with it, itself included."""
    of_setting = 100 * rows.groupby("setting", sort=False)[metric].agg(["mean", "min", "max"])
    ordered = of_setting.sort_values("mean", ascending=False, kind="stable")
    spread = (ordered["max"] - ordered["min"]).clip(lower=ordered["max"].iloc[0] - ordered["min"].iloc[0])
    near = ordered["mean"].iloc[0] - ordered["mean"] <= spread
    return ordered["mean"], int(near.cummin().sum()) if rows.seed.nunique() > 1 else 1


def in_words(settings: pd.Series, tied: int) -> str:
    """The best and those tied with it; without a tie, the next; the last where it is none of these."""
    said = [f"{value:.1f} % for {name}" for name, value in settings.items()]
    if tied > 1:
        first = [f"{', '.join(said[: tied - 1])} and {said[tied - 1]} (tied)"]
        return ", ".join(first + [f"worst: {one}" for one in said[tied:][-1:]])
    if len(said) < 3:
        return ", ".join(said)
    return f"best: {said[0]}, next: {said[1]}, worst: {said[-1]}"
