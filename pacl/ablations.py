"""The paper's open choices and the re-implementations' other ones, each trained and measured alone: python -m
pacl.ablations PROFILE POINT.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from pacl.cached import CachedPairs, Texts, read_features
from pacl.config import ConfigError, load_params
from pacl.data import Images, all_scenes, read_json, read_pairs, write_json
from pacl.measure import MEASURED, Scenes, load_scenes, measure, scenes_file
from pacl.params import Train
from pacl.train import train

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
NOT_TRAINING = ("tokens", "templates")  # what a point may change beside the train section: model's and features'


def run_point(profile: str, point: str) -> Path:
    """Trains one point with every seed and measures it on the test scenes; writes reports/PROFILE/ablations/POINT.json.

    A point that asks for more pairs than there are is written with the reason and no runs. Raises ConfigError for a
    point that params.yaml lacks or whose changes are no parameters.
    """
    params = load_params(profile, "model", "features", "train", "protocols", "ablations")
    if point not in params.ablations.points:
        raise ConfigError(f"{point!r} is no point of {profile}.ablations; it has {', '.join(params.ablations.points)}.")
    changes = params.ablations.base | params.ablations.points[point]
    settings = [train_settings(params, changes, seed) for seed in params.ablations.seeds]
    target = Path("reports", profile, "ablations", f"{point}.json")
    features, prepared = Path("data/features", profile), Path("data/prepared", profile)
    train_tokens = read_features(features / "train_patches.npy", 3)
    if settings[0].pairs > len(train_tokens):
        reason = f"needs {settings[0].pairs:,} pairs, {profile} has {len(train_tokens):,}"
        write_json(target, {"point": point, "changes": changes, "skipped": reason, "runs": []})
        return target
    texts, benchmarks = Texts(features, "train"), {}
    for name in MEASURED:
        if scenes_file(features, name).is_file():
            benchmarks[name] = load_scenes(scenes_file(features, name))
    if changes.get("templates", params.features.templates) != params.features.templates:
        texts.noun_features = other_templates(params, features, changes["templates"])
    if changes.get("tokens", params.model.tokens) != params.model.tokens:
        train_tokens, benchmarks = other_tokens(params, prepared, changes["tokens"], settings[0].pairs)
    runs = []
    for setting in settings:
        embedder, _ = train(CachedPairs(train_tokens, texts, setting), setting)
        runs.append({"seed": setting.seed, **measure(benchmarks, embedder.cpu(), embedder.text_embedder)})
    write_json(target, {"point": point, "changes": changes, "runs": runs})
    return target


def train_settings(params, changes: dict, seed: int) -> Train:
    own = {name: value for name, value in changes.items() if name not in NOT_TRAINING}
    return Train.model_validate(params.train.model_dump() | own | {"seed": seed})


def clip_with(params, tokens: str):
    from pacl.clip import load_clip  # seconds to import, and most points work on what the features stage kept

    return load_clip(params.model.backbone, params.model.pretrained, tokens=tokens, dtype=params.model.dtype)


def other_templates(params, features: Path, template_list: str) -> np.ndarray:
    """Noun prompts in other templates, float16 [nouns, templates, D]."""
    from pacl.features import noun_features

    nouns = read_json(features / "texts.json")["nouns"]
    return noun_features(clip_with(params, params.model.tokens), nouns, template_list)


def other_tokens(params, prepared: Path, tokens: str, pairs: int) -> tuple[np.ndarray, dict[str, Scenes]]:
    """Tokens of another kind: of the first `pairs` training images, and of the test scenes."""
    from pacl.features import tokens_of
    from pacl.targets import scenes_by_benchmark

    clip, batch_size = clip_with(params, tokens), params.features.batch_size
    images = Images(read_pairs(prepared, "train")[0].source[:pairs])
    image_sets = all_scenes(prepared, "test")
    scenes = scenes_by_benchmark(clip, image_sets, params.protocols.native, batch_size=batch_size)
    return tokens_of(clip, images, batch_size), scenes


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


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m pacl.ablations PROFILE POINT")
    try:
        print(run_point(*sys.argv[1:]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
