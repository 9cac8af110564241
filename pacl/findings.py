"""What the ablations ask, and what their points' runs answer (paper, section 3: its open choices)."""

from pathlib import Path

import pandas as pd

from pacl.data import read_json

# group -> (its question, point -> what the figure calls it); `default` is the base setting, drawn in every group
GROUPS = {
    "pooling": (
        "Own attention for every pair, or for the matched text only?",
        {"default": "all pairs (the paper)", "matched_only": "matched only (public code)"},
    ),
    "scale": (
        "Inner softmax: scoring and scale",
        {
            "scale_1": "cosine × 1",
            "scale_3": "cosine × 3",
            "default": "cosine × 10",
            "scale_30": "cosine × 30",
            "scale_100": "cosine × 100",
            "dot_1": "dot × 1",
            "dot_10": "dot × 10",
        },
    ),
    "activation": (
        "Weights of patches: softmax, or sigmoid?",
        {"default": "softmax (the paper)", "sigmoid_10": "sigmoid (public code)"},
    ),
    "embedder": ("Embedder", {"default": "residual (the paper)", "mlp": "MLP, no skip", "linear": "one linear layer"}),
    "text_embedder": (
        "Text embedder",
        {"default": "CLIP's, frozen (the paper)", "text_linear": "a linear layer trained along (public code)"},
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
        {
            "pairs_1000": "1,000",
            "default": "4,000",
            "pairs_20000": "20,000 (2.5 × the steps)",
        },
    ),
    "nouns": ("Noun prompts beside captions", {"default": "half noun prompts", "nouns_off": "captions only"}),
    "templates": (
        "Templates of noun prompts in training",
        {"templates_1": "one", "default": "seven (the paper)", "templates_80": "80 (ImageNet's)"},
    ),
    "batch": (
        "Pairs in a batch, equal steps",
        {"batch_32": "32", "default": "64", "batch_128": "128"},
    ),
    "same_text": (
        "Are images with the same text each other's negatives?",
        {"default": "no, masked", "negatives_all": "yes"},
    ),
}


def point_table(folder: Path, points: dict) -> pd.DataFrame:
    """All points' runs: columns group, point, setting, seed and the metrics; `default` stands in every group."""
    rows = []
    for group, (_, settings) in GROUPS.items():
        for point, setting in settings.items():
            if point in points:
                runs = read_json(folder / f"{point}.json")["runs"]
                rows += [{"group": group, "point": point, "setting": setting, **run} for run in runs]
    return pd.DataFrame(rows)


def finding(rows: pd.DataFrame) -> str:
    """One sentence: the best and the worst setting, and whether their difference exceeds the spread over seeds."""
    metric, name = ("patch_accuracy", "patch accuracy") if "patch_accuracy" in rows else ("voc20", "voc20 mIoU")
    if metric not in rows:
        metric, name = "voc21", "voc21 mIoU"
    by_setting = 100 * rows.groupby("setting", sort=False)[metric].agg(["mean", "min", "max"])
    best, worst = by_setting["mean"].idxmax(), by_setting["mean"].idxmin()
    gap, spread = by_setting["mean"][best] - by_setting["mean"][worst], (by_setting["max"] - by_setting["min"]).max()
    if gap < 0.05:
        return f"No difference: {by_setting['mean'][best]:.1f} % {name} with either."
    seeds = rows.seed.nunique()
    weight = (
        f"{'more' if gap > spread else 'no more'} than the largest spread over {seeds} seeds, {spread:.1f} points"
        if seeds > 1
        else "one run each"
    )
    return (
        f"{best} is best with {by_setting['mean'][best]:.1f} % {name}, "
        f"{worst} lowest with {by_setting['mean'][worst]:.1f} %: {gap:.1f} points apart, {weight}."
    )
