"""Measures a model on prepared data: patch labels, label maps, class scores (paper, section 4); each function takes
several methods at once.
"""

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_curve
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from pacl.clip import FrozenCLIP, class_text_features
from pacl.data import Images, Masks, target_of
from pacl.features import batches
from pacl.labels import best_phrase, label_maps
from pacl.metrics import IGNORE_INDEX, coherence_roc, confusion_matrix, iou_per_class, patch_labels
from pacl.model import compatibility
from pacl.params import Protocol
from pacl.prompts import templates
from pacl.segment import coarse_logits, dense_logits, patch_class_logits, segment

Embed = Callable[[Tensor], Tensor]  # patch features [B, N, D_v] -> patch embeddings [B, N, D]


def segmentation(
    clip: FrozenCLIP,
    methods: dict[str, Embed],
    images: Images,
    masks: Masks,
    benchmarks: dict,
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """Confusion matrices over a whole split: benchmark -> method -> int64 [K, K].

    benchmarks: name -> {"classes", "table"} as pacl.data.read_scenes gives them; all are measured from the same tokens.
    """
    texts = {
        name: class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
        for name, benchmark in benchmarks.items()
    }
    union = torch.cat([features for features, _ in texts.values()])  # [M, D], every phrase of every benchmark
    ends = np.cumsum([len(features) for features, _ in texts.values()]).tolist()
    confmats = {
        name: {method: torch.zeros(len(b["classes"]), len(b["classes"]), dtype=torch.long) for method in methods}
        for name, b in benchmarks.items()
    }
    for picture, mask in equal_sizes(images, masks, batch_size):
        for method, embed in methods.items():
            logits, rows, columns = coarse_logits(clip, embed, picture, union, protocol)
            for end, (name, benchmark) in zip(ends, benchmarks.items(), strict=True):
                features, phrase_index = texts[name]
                own = logits[:, end - len(features) : end]
                preds = label_maps(own, rows, columns, on_benchmark(protocol, benchmark), phrase_index=phrase_index)
                target = torch.from_numpy(np.stack([target_of(m, benchmark["table"]) for m in mask]))
                confmats[name][method] += confusion_matrix(preds.cpu(), target, len(benchmark["classes"]))
    return confmats


def has_background(benchmark: dict) -> bool:
    return benchmark["classes"][0] == "background"


def foreground(benchmark: dict, protocol: Protocol) -> list[str]:
    """The classes that get a text: all but a background that the protocol's rule makes from the others' uncertainty."""
    return (
        benchmark["classes"][1:]
        if has_background(benchmark) and protocol.background_rule != "none"
        else benchmark["classes"]
    )


def on_benchmark(protocol: Protocol, benchmark: dict) -> Protocol:
    """The protocol without its background rule where the benchmark has no background class."""
    return protocol if has_background(benchmark) else protocol.model_copy(update={"background_rule": "none"})


def equal_sizes(images: Images, masks: Masks, batch_size: int):
    """Batches of consecutive images of one size: (uint8 [B, 3, H, W], their B masks). Raises ValueError for a mask of
    another size than its image.
    """
    pairs = tqdm(((images[i], masks[i]) for i in range(len(images))), total=len(images), desc="scenes", mininterval=5)
    for _, group in groupby(pairs, key=lambda pair: pair[0].size):
        group = list(group) if isinstance(images.source, np.ndarray) else group
        for batch in chunks(group, batch_size):
            for image, mask in batch:
                if mask.shape != image.size[::-1]:
                    raise ValueError(
                        f"a mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                        f"{image.width} x {image.height}: they must be of one size."
                    )
            yield (
                torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image, _ in batch])).permute(0, 3, 1, 2),
                [mask for _, mask in batch],
            )


def chunks(items, size: int):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def scores_by_class(confmats: dict, classes: dict[str, list[str]]) -> pd.DataFrame:
    """IoU of every class, of confusion matrices by protocol, benchmark and method: columns benchmark, protocol,
    method, class, iou.
    """
    rows = [
        (benchmark, protocol, method, name.split(",")[0], iou)
        for protocol, of_protocol in confmats.items()
        for benchmark, of_benchmark in of_protocol.items()
        for method, confmat in of_benchmark.items()
        for name, iou in zip(classes[benchmark], iou_per_class(confmat).tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "class", "iou"])


def examples(masks: Masks, count: int, labels: int = 3) -> list[int]:
    """The first `count` scenes with at least `labels` different labels in them: shown as they come, not picked."""
    rich = (i for i in range(len(masks)) if len(np.unique(masks[i])) >= labels)
    return [i for _, i in zip(range(count), rich, strict=False)]


def prompt_maps(
    clip: FrozenCLIP,
    methods: dict[str, Embed],
    images: Images,
    masks: Masks,
    benchmark: dict,
    shown: list[int],
    protocol: Protocol,
):
    """For each shown scene the name of its largest class, and each method's cosine of every pixel with it: names,
    method -> maps [H, W].
    """
    largest = [
        np.bincount(target_of(masks[i], benchmark["table"]).ravel(), minlength=256)[:IGNORE_INDEX].argmax()
        for i in shown
    ]
    names = [benchmark["classes"][k].split(",")[0] for k in largest]
    texts = class_text_features(clip, names, templates(protocol.templates))[0]
    maps = {
        m: [
            dense_logits(clip, embed, images[i], text[None], protocol)[0].cpu()
            for i, text in zip(shown, texts, strict=True)
        ]
        for m, embed in methods.items()
    }
    return names, maps


def label_examples(
    clip: FrozenCLIP, methods: dict[str, Embed], images: Images, benchmark: dict, shown: list[int], protocol: Protocol
) -> dict:
    """Each method's label maps of the shown scenes: method -> [int64 [H, W], ...]."""
    protocol = on_benchmark(protocol, benchmark)
    text, phrase_index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    return {
        m: [segment(clip, embed, images[i], text, protocol, phrase_index=phrase_index).cpu() for i in shown]
        for m, embed in methods.items()
    }


def scene_patches(
    clip: FrozenCLIP, images: Images, masks: Masks, table: list[int], *, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Patch tokens [M, N, D_v] of images as CLIP crops them, and the majority label of each patch [M, N]."""
    labels = [
        patch_labels(torch.from_numpy(view_of(target_of(masks[i], table), clip.image_size))[None], clip.patch_size)
        for i in range(len(masks))
    ]
    tokens = [clip.patch_features(batch).cpu() for batch in batches(clip, images, batch_size, "patches")]
    return torch.cat(tokens), torch.cat(labels)


def view_of(target: np.ndarray, size: int) -> np.ndarray:
    """A label map through CLIP's preprocessing: short side to `size`, centre crop, labels never mixed."""
    return np.array(center_crop(resize(Image.fromarray(target), size, InterpolationMode.NEAREST_EXACT), size))


def patch_predictions(
    embed: Embed, patches: Tensor, text: Tensor, phrase_index: Tensor, *, batch_size: int = 64
) -> Tensor:
    """The class of highest text similarity for each patch: [M, N, D_v] -> [M, N]."""
    with torch.no_grad():
        return torch.cat(
            [patch_class_logits(embed(part), text, phrase_index).argmax(-1) for part in patches.split(batch_size)]
        )


def patch_accuracy(preds: Tensor, labels: Tensor) -> float:
    """Share of labelled patches whose class is right (paper: patch classification)."""
    labelled = labels != IGNORE_INDEX
    return (preds[labelled] == labels[labelled]).double().mean().item()


def patch_accuracy_by_class(preds: Tensor, labels: Tensor, classes: list[str]) -> pd.DataFrame:
    """Columns class, accuracy, patches; classes without a patch are left out."""
    here = [(k, name) for k, name in enumerate(classes) if (labels == k).any()]
    rows = [
        (name.split(",")[0], patch_accuracy(preds[labels == k], labels[labels == k]), int((labels == k).sum()))
        for k, name in here
    ]
    return pd.DataFrame(rows, columns=["class", "accuracy", "patches"])


def coherence(features: Tensor, labels: Tensor, *, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The ROC of "one class" against cosine, for patches of different images: [M, N, D], [M, N] -> false and true
    positive rates, area.
    """
    images = torch.arange(len(labels))[:, None].expand_as(labels)
    scores, same_class, area = coherence_roc(
        features.flatten(0, 1), labels.flatten(), images.flatten(), pairs=pairs, seed=seed
    )
    false_positives, true_positives, _ = roc_curve(same_class, scores)
    thinned = np.linspace(0, len(false_positives) - 1, min(400, len(false_positives))).astype(int)
    return false_positives[thinned], true_positives[thinned], area


def class_scores(
    clip: FrozenCLIP,
    embed: Embed,
    images: Images,
    classes: list[str],
    template_list: list[str],
    attention: dict,
    *,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """CLIP's cosine and PACL's phi of every image with every class: two tensors [M, K].

    attention: how phi's inner softmax was trained, {"scoring", "scale"}.
    """
    text, phrase_index = class_text_features(clip, classes, template_list)
    clip_scores, pacl_scores = [], []
    with torch.no_grad():
        for batch in batches(clip, images, batch_size, "images"):
            clip_scores.append(best_phrase(clip.image_features(batch) @ text.T, phrase_index, -1).cpu())
            phi = compatibility(embed(clip.patch_features(batch)), text, **attention)
            pacl_scores.append(best_phrase(phi, phrase_index, -1).cpu())
    return torch.cat(clip_scores), torch.cat(pacl_scores)


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
