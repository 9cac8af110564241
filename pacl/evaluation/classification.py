"""Zero-shot classification by CLIP, by PACL's phi and by both together (paper, section 4: twelve sets)."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.clip.features import batches
from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.images import Images
from pacl.label_maps import best_phrase
from pacl.model import compatibility
from pacl.runtime.processes import in_parts
from pacl.segment import Method


def class_scores(
    clip: FrozenCLIP,
    method: Method,
    images: Images,
    classes: list[str],
    template_list: list[str],
    attention: dict,
    *,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """CLIP's cosine and PACL's phi of every image with every class: two tensors [M, K].

    attention: how phi's inner softmax was trained, {"scoring", "scale", "activation"}.
    """
    text, phrase_index = class_text_features(clip, classes, template_list)

    @torch.no_grad()
    def scores(part: range) -> list[tuple[Tensor, Tensor]]:
        rows = []
        for batch in batches(clip, images.some(part), batch_size, "images"):
            features, tokens = clip.image_and_patch_features(batch)
            phi = compatibility(method.embed(tokens), method.embed_text(text), **attention)
            rows.append(tuple(best_phrase(s, phrase_index, -1).cpu() for s in (features @ text.T, phi)))
        return rows

    rows = [row for part in in_parts(scores, len(images), batch_size) for row in part]
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def both(clip_scores: Tensor, pacl_scores: Tensor, weight: float, clip_scale: float, pacl_scale: float) -> Tensor:
    """Log-probabilities of CLIP and PACL added, PACL's with `weight`: [M, K]."""
    return (1 - weight) * F.log_softmax(clip_scale * clip_scores, -1) + weight * F.log_softmax(
        pacl_scale * pacl_scores, -1
    )


def accuracy(scores: Tensor, labels: np.ndarray) -> float:
    return (scores.argmax(-1) == torch.from_numpy(labels)).float().mean().item()


@torch.no_grad()
def zero_shot_accuracy(
    clip: FrozenCLIP, images: np.ndarray, labels: list[int], classes: list[str], template_list: list[str]
) -> float:
    """CLIP's zero-shot accuracy on uint8 images [M, H, W, 3]."""
    text, phrase_index = class_text_features(clip, classes, template_list)
    features = torch.cat([clip.image_features(batch) for batch in batches(clip, Images(images), 256, "images")])
    return accuracy(best_phrase(features @ text.T, phrase_index, -1).cpu(), np.array(labels))


def score_accuracies(
    clip_scores: Tensor, pacl_scores: Tensor, labels: np.ndarray, weight: float, scales: tuple[float, float]
) -> dict:
    """Accuracy of CLIP alone, PACL alone and both; scales: the logit scales of CLIP and of PACL."""
    together = both(clip_scores, pacl_scores, weight, *scales)
    return {
        "clip": accuracy(clip_scores, labels),
        "pacl": accuracy(pacl_scores, labels),
        "ensemble": accuracy(together, labels),
    }


def choose_weight(sets: dict[str, tuple], weights: list[float], scales: tuple[float, float]) -> float:
    """PACL's weight with the highest mean accuracy over (validation) sets, name -> (CLIP's scores, PACL's, labels);
    of equals the smallest.
    """
    return max(
        sorted(weights), key=lambda w: np.mean([accuracy(both(c, p, w, *scales), y) for c, p, y in sets.values()])
    )


def accuracy_table(
    sets: dict[str, tuple], weight: float, scales: tuple[float, float], *, seed: int = 0
) -> pd.DataFrame:
    """Columns set, method, accuracy, difference (to CLIP's), low, high (its 95 % interval, resampling images).

    sets: name -> (CLIP's scores, PACL's, labels). The last rows, set "mean", are the means over sets, each resampled.
    """
    right = {
        name: {
            method: (scores.argmax(-1).numpy() == labels).astype(float)
            for method, scores in (("clip", c), ("pacl", p), ("ensemble", both(c, p, weight, *scales)))
        }
        for name, (c, p, labels) in sets.items()
    }
    rng, rows = np.random.default_rng(seed), []
    for method in ("pacl", "ensemble") if sets else ():
        resampled = []
        for name, hits in right.items():
            gain = hits[method] - hits["clip"]
            drawn = gain[rng.integers(len(gain), size=(1000, len(gain)))].mean(1)
            resampled.append(drawn)
            rows.append((name, method, hits[method].mean(), gain.mean(), *np.quantile(drawn, [0.025, 0.975])))
        own = [row for row in rows if row[1] == method]
        mean = [np.mean([row[i] for row in own]) for i in (2, 3)]
        rows.append(("mean", method, *mean, *np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["set", "method", "accuracy", "difference", "low", "high"])
