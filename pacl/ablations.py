"""The paper's open choices and the re-implementations' other ones, each trained and measured alone: python -m
pacl.ablations PROFILE POINT.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.cached import CachedPairs
from pacl.clip import FrozenCLIP, class_text_features, load_clip
from pacl.config import ConfigError, load_params
from pacl.data import Images, Masks, read_json, read_scenes, target_of, write_json
from pacl.evaluate import foreground, patch_accuracy, segmentation, view_of
from pacl.features import Texts
from pacl.metrics import confusion_matrix, mean_iou, patch_labels
from pacl.model import similarity_map
from pacl.params import Protocol, Train
from pacl.prompts import templates
from pacl.segment import interpolation_matrix, label_maps
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
    "embedder": ("Embedder", {"default": "residual (the paper)", "mlp": "MLP, no skip", "linear": "one linear layer"}),
    "pairs": (
        "Number of image-caption pairs, equal steps",
        {
            "pairs_500": "500",
            "pairs_1000": "1,000",
            "pairs_2000": "2,000",
            "default": "4,000",
            "pairs_8000": "8,000",
            "pairs_16000": "16,000",
        },
    ),
    "nouns": ("Noun prompts beside captions", {"default": "half noun prompts", "nouns_off": "captions only"}),
}
STRIDE_TITLE = "Token stride at inference (one trained model)"
MEASURED = ("voc20", "context59")  # benchmarks, where a source has them


def run_point(profile: str, point: str) -> Path:
    """Trains one point with every seed and measures it on the test scenes; writes reports/PROFILE/ablations/POINT.json.

    Raises ConfigError for a point that params.yaml lacks or whose changes are no training parameters.
    """
    params = load_params(profile, "model", "train", "protocols", "ablations")
    if point not in params.ablations.points:
        raise ConfigError(f"{point!r} is no point of {profile}.ablations; it has {', '.join(params.ablations.points)}.")
    changes = params.ablations.base | params.ablations.points[point]
    clip = load_clip(
        params.model.backbone, params.model.pretrained, tokens=params.model.tokens, dtype=params.model.dtype
    )
    features = Path("data/features", profile)
    patches, texts = np.load(features / "train_patches.npy", mmap_mode="r"), Texts(features, "train")
    measure = measurer(clip, profile, params.protocols.native)
    runs = []
    for seed in params.ablations.seeds:
        settings = Train.model_validate(params.train.model_dump() | changes | {"seed": seed})
        embedder, _ = train(CachedPairs(patches, texts, settings), settings)
        runs.append({"seed": seed, **measure(embedder)})
    target = Path("reports", profile, "ablations", f"{point}.json")
    write_json(target, {"point": point, "changes": changes, "runs": runs})
    return target


def measurer(clip: FrozenCLIP, profile: str, protocol: Protocol):
    """A function embedder -> {"patch_accuracy", "voc20", ...} on the cached tokens of the test scenes, patch stride,
    as CLIP crops them.
    """
    _, masks, benchmarks = read_scenes(Path("data/prepared", profile), "test")
    tokens = torch.from_numpy(np.load(Path("data/features", profile, "test_scene_patches.npy"))).float()
    prepared = {
        name: targets_and_text(clip, masks, benchmarks[name], protocol) for name in MEASURED if name in benchmarks
    }

    def measure(embedder) -> dict:
        result = {}
        for name, (targets, text, phrase_index, count) in prepared.items():
            preds, patch_preds = label_tokens(clip, embedder, tokens, text, phrase_index, protocol)
            if name == MEASURED[0]:
                result["patch_accuracy"] = patch_accuracy(patch_preds, patch_labels(targets, clip.patch_size))
            result[name] = mean_iou(confusion_matrix(preds, targets, count))
        return result

    return measure


def targets_and_text(
    clip: FrozenCLIP, masks: Masks, benchmark: dict, protocol: Protocol
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Label maps [M, H, W] in CLIP's crop, the classes' text [K, D], its phrase index, and the number of classes."""
    targets = torch.from_numpy(
        np.stack([view_of(target_of(masks[i], benchmark["table"]), clip.image_size) for i in range(len(masks))])
    )
    text, phrase_index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    return targets, text, phrase_index, len(benchmark["classes"])


@torch.no_grad()
def label_tokens(
    clip: FrozenCLIP, embedder, tokens: Tensor, text: Tensor, phrase_index: Tensor, protocol: Protocol
) -> tuple[Tensor, Tensor]:
    """Label maps [M, H, W] and patch labels [M, N] of cached tokens [M, N, D_v]."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    upscale = interpolation_matrix(clip.image_size, h, clip.patch_size, clip.patch_size)
    argmax = protocol.model_copy(update={"background_rule": "none"})
    maps, patches = [], []
    for part in tokens.split(100):
        logits = similarity_map(embedder(part), text).transpose(1, 2).reshape(len(part), len(text), h, w)
        maps.append(label_maps(logits, upscale, upscale, argmax, phrase_index=phrase_index))
        patches.append(label_maps(logits, torch.eye(h), torch.eye(w), argmax, phrase_index=phrase_index).flatten(1))
    return torch.cat(maps), torch.cat(patches)


def point_table(folder: Path, points: dict) -> pd.DataFrame:
    """All points' runs: columns group, point, setting, seed and the metrics; `default` stands in every group."""
    rows = []
    for group, (_, settings) in GROUPS.items():
        for point, setting in settings.items():
            if point in points:
                runs = read_json(folder / f"{point}.json")["runs"]
                rows += [{"group": group, "point": point, "setting": setting, **run} for run in runs]
    return pd.DataFrame(rows)


def stride_table(
    clip: FrozenCLIP, embedder, scenes: tuple[Images, Masks, dict], native: Protocol, settings
) -> pd.DataFrame:
    """mIoU of one trained model at several token strides, on the first `stride_scenes` test scenes."""
    images, masks, benchmarks = scenes
    images, masks = Images(images.source[: settings.stride_scenes]), Masks(masks.source[: settings.stride_scenes])
    measured = {name: benchmarks[name] for name in MEASURED if name in benchmarks}
    rows = []
    for stride in settings.strides:
        confmats = segmentation(
            clip,
            {"pacl": embedder},
            images,
            masks,
            measured,
            native.model_copy(update={"token_stride": stride}),
            batch_size=16,
        )
        row = {"group": "stride", "point": f"stride_{stride}", "setting": f"{stride} pixels", "seed": 0}
        rows.append(row | {name: mean_iou(of_method["pacl"]) for name, of_method in confmats.items()})
    return pd.DataFrame(rows)


def groups(table: pd.DataFrame) -> dict[str, str]:
    """The groups in a table and their questions, in order."""
    titles = {name: title for name, (title, _) in GROUPS.items()} | {"stride": STRIDE_TITLE}
    return {name: titles[name] for name in table.group.unique()}


def finding(group: str, rows: pd.DataFrame) -> str:
    """One sentence: the best and the worst setting, and whether their difference exceeds the spread over seeds."""
    metric, name = ("patch_accuracy", "patch accuracy") if "patch_accuracy" in rows else ("voc20", "voc20 mIoU")
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
