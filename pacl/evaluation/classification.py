"""Zero-shot classification by CLIP, by PACL's phi and by both together (paper, section 4: twelve sets)."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.clip.features import batches
from pacl.clip.frozen import FrozenCLIP
from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.images import Images
from pacl.data.prepared import read_labelled
from pacl.data.prompts import templates
from pacl.label_maps import best_phrase
from pacl.model import compatibility
from pacl.runtime.files import write_json
from pacl.runtime.params import Classification
from pacl.runtime.processes import in_parts
from pacl.segment import Method

Scores = tuple[Tensor, Tensor, np.ndarray]  # of a set: CLIP's scores [M, K], PACL's, and labels [M]


def scores_of_sets(
    clip: FrozenCLIP, method: Method, prepared: Path, split: str, settings: Classification, attention: dict
) -> dict[str, Scores]:
    """The scores of every set with images in this split, which "test" must have. attention: as in `class_scores`."""
    found = {}
    for name in settings.sets:
        if split == "test" or (prepared / f"{split}_{name}.json").is_file():
            one = read_labelled(prepared, split, name)
            forms = one.templates if settings.templates == "own" else templates(settings.templates)
            texts = class_texts(clip, one.classes, forms)
            scores = class_scores(clip, method, one.images, texts, attention, batch_size=settings.batch_size)
            found[name] = (*scores, one.labels)
    return found


def class_scores(
    clip: FrozenCLIP, method: Method, images: Images, texts: ClassTexts, attention: dict, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """CLIP's cosine and PACL's phi of every image with every class: two tensors [M, K].

    attention: how phi's inner softmax was trained, {"scoring", "scale", "activation", "pooled"}.
    """

    @torch.no_grad()
    def scores(part: range) -> list[tuple[Tensor, Tensor]]:
        rows = []
        for batch in batches(clip, images.take(part), batch_size, "images"):
            features, tokens = clip.image_and_patch_features(batch)
            phi = compatibility(method.embed(tokens), method.embed_text(texts.features), **attention)
            rows.append([best_phrase(s, texts.phrase_index, -1).cpu() for s in (features @ texts.features.T, phi)])
        return rows

    rows = [row for part in in_parts(scores, len(images), batch_size) for row in part]
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def ensemble_logits(
    clip_scores: Tensor, pacl_scores: Tensor, weight: float, clip_scale: float, pacl_scale: float
) -> Tensor:
    """The sum of CLIP's and PACL's log-probabilities, PACL's with `weight`: [M, K]."""
    clip_log, pacl_log = F.log_softmax(clip_scale * clip_scores, -1), F.log_softmax(pacl_scale * pacl_scores, -1)
    return (1 - weight) * clip_log + weight * pacl_log


def accuracy(scores: Tensor, labels: np.ndarray) -> float:
    return (scores.argmax(-1) == torch.from_numpy(labels)).float().mean().item()


@torch.no_grad()
def zero_shot_accuracy(
    clip: FrozenCLIP, images: np.ndarray, labels: list[int], classes: list[str], template_list: list[str]
) -> float:
    """CLIP's zero-shot accuracy on uint8 images [M, H, W, 3]."""
    texts = class_texts(clip, classes, template_list)
    features = torch.cat([clip.image_features(batch) for batch in batches(clip, Images(images), 256, "images")])
    return accuracy(best_phrase(features @ texts.features.T, texts.phrase_index, -1).cpu(), np.array(labels))


def choose_weight(sets: dict[str, Scores], weights: list[float], scales: tuple[float, float]) -> float:
    """PACL's weight with the highest mean accuracy over (validation) sets, the smallest where tied; 0 without sets.

    scales: the logit scales of CLIP and of PACL.
    """
    if not sets:
        return 0.0
    return max(
        sorted(weights),
        key=lambda w: np.mean([accuracy(ensemble_logits(c, p, w, *scales), y) for c, p, y in sets.values()]),
    )


def accuracies(one: Scores, weight: float, scales: tuple[float, float]) -> dict[str, float]:
    """Accuracy on one set of CLIP alone, PACL alone and both."""
    return {method: accuracy(scores, one[2]) for method, scores in ways(one, weight, scales).items()}


def ways(one: Scores, weight: float, scales: tuple[float, float]) -> dict[str, Tensor]:
    return {"clip": one[0], "pacl": one[1], "ensemble": ensemble_logits(*one[:2], weight, *scales)}


def accuracy_table(
    sets: dict[str, Scores], weight: float, scales: tuple[float, float], *, seed: int = 0
) -> pd.DataFrame:
    """Columns set, method, accuracy, difference (from CLIP's), low, high (its 95 % interval, resampling images). The
    last row of a method, set "mean", has the means over sets, each resampled.
    """
    rng, rows = np.random.default_rng(seed), []
    for method in ("pacl", "ensemble") if sets else ():
        own, resampled = [], []
        for name, one in sets.items():
            scores = ways(one, weight, scales)
            hits, of_clip = ((scores[way].argmax(-1).numpy() == one[2]).astype(float) for way in (method, "clip"))
            gain = hits - of_clip
            drawn = gain[rng.integers(len(gain), size=(1000, len(gain)))].mean(1)
            resampled.append(drawn)
            own.append((name, method, hits.mean(), gain.mean(), *np.quantile(drawn, [0.025, 0.975])))
        mean = [np.mean([row[i] for row in own]) for i in (2, 3)]
        rows += [*own, ("mean", method, *mean, *np.quantile(np.mean(resampled, axis=0), [0.025, 0.975]))]
    return pd.DataFrame(rows, columns=["set", "method", "accuracy", "difference", "low", "high"])


def write_classification(
    folder: Path, sets: dict[str, Scores], weight: float, scales: tuple[float, float]
) -> tuple[dict, pd.DataFrame]:
    """Writes classification.json (`accuracies` by set) and classification.csv (`accuracy_table`); returns both."""
    result = {name: accuracies(one, weight, scales) for name, one in sets.items()}
    table = accuracy_table(sets, weight, scales)
    write_json(folder / "classification.json", result)
    table.round(6).to_csv(folder / "classification.csv", index=False)
    return result, table
