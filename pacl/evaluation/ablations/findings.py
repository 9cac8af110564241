"""What the ablations ask, and what their points' runs answer (paper, section 3: its open choices)."""

from pathlib import Path

import pandas as pd

from pacl.runtime.files import read_json

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
        {"batch_32": "32 (half the pairs seen)", "default": "64", "batch_128": "128 (twice the pairs seen)"},
    ),
    "same_text": (
        "Are images with the same text each other's negatives?",
        {"default": "no, masked", "negatives_all": "yes"},
    ),
}

STRAW_MAN = "the word “background”"  # the background rule without a threshold, which nobody uses (pacl.evaluation.ablations.readings)

MEASURES = {
    "patch_accuracy": "patch accuracy",
    "voc20": "voc20 mIoU",
    "context59": "context59 mIoU",
    "voc21": "voc21 mIoU",
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
    """Which setting is best, and what each measure says: the best setting, those level with it, and the last. Settings
    are level with the best up to the first that lies further from it than runs of one of the two with other seeds.
    """
    ranked = {name: ranking(rows, metric) for metric, name in MEASURES.items() if metric in rows}
    ahead = [settings.index[0] for settings, level in ranked.values() if level == 1]
    if rows.seed.nunique() == 1:
        verdict = "One run a setting."
    elif len(set(ahead)) > 1:
        verdict = "The measures disagree."
    elif not ahead:
        verdict = "The best are level: seeds make more of a difference."
    else:
        verdict = f"Best{' where the best are not level' * (len(ahead) < len(ranked))}: {ahead[0]}."
    return f"{verdict} By {'; by '.join(f'{name}: {in_words(*one)}' for name, one in ranked.items())}."


def ranking(rows: pd.DataFrame, metric: str) -> tuple[pd.Series, int]:
    """Each setting's mean in percent, the best first, and how many are level with it, itself counted."""
    of_setting = 100 * rows.groupby("setting", sort=False)[metric].agg(["mean", "min", "max"])
    ordered = of_setting.sort_values("mean", ascending=False, kind="stable")
    spread = (ordered["max"] - ordered["min"]).clip(lower=ordered["max"].iloc[0] - ordered["min"].iloc[0])
    near = ordered["mean"].iloc[0] - ordered["mean"] <= spread
    return ordered["mean"], int(near.cummin().sum()) if rows.seed.nunique() > 1 else 1


def in_words(settings: pd.Series, level: int) -> str:
    """The best and those level with it; the next where none is; the last where it is none of these."""
    said = [f"{value:.1f} % for {name}" for name, value in settings.items()]
    if level > 1:
        first = [f"{', '.join(said[: level - 1])} and {said[level - 1]} (level)"]
        return ", ".join(first + [f"worst: {one}" for one in said[level:][-1:]])
    if len(said) < 3:
        return ", ".join(said)
    return f"best: {said[0]}, next: {said[1]}, worst: {said[-1]}"


def world_table(folder: Path) -> pd.DataFrame:
    """Columns seed, method and the metrics, of every world in reports/PROFILE/worlds."""
    worlds = sorted((read_json(path) for path in folder.glob("*.json")), key=lambda world: world["seed"])
    rows = [{"seed": w["seed"], "method": m, **w[m]} for w in worlds for m in ("clip", "pacl") if m in w]
    return pd.DataFrame(rows, columns=None if rows else ["seed", "method"])
