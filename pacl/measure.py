"""Measures an embedder in seconds, from patch tokens of the test scenes as CLIP crops them: for ablations, where every
point is trained and measured for every seed (paper, section 4).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pacl.alignment import patch_accuracy, view_of
from pacl.clip import FrozenCLIP, class_text_features
from pacl.data import Masks, target_of
from pacl.evaluate import foreground
from pacl.labels import label_maps
from pacl.metrics import confusion_matrix, mean_iou, patch_labels
from pacl.model import similarity_map
from pacl.params import Protocol
from pacl.prompts import templates
from pacl.segment import interpolation_matrix

MEASURED = ("voc20", "context59")  # benchmarks, where a source has them; patch accuracy is the first one's


@dataclass(frozen=True)
class Scenes:
    """For each benchmark the patch tokens [M, N, D_v] of its scenes, their label maps [M, H, W] in CLIP's crop, its
    classes' text [K, D], the class of each phrase, and the number of classes.
    """

    clip: FrozenCLIP
    benchmarks: dict[str, tuple[Tensor, Tensor, Tensor, Tensor, int]]


def is_measured(benchmarks: dict) -> bool:
    return any(name in benchmarks for name in MEASURED)


def scenes_of(clip: FrozenCLIP, image_sets: list[tuple[np.ndarray, Masks, dict]], protocol: Protocol) -> Scenes:
    """image_sets: patch tokens [M, N, D_v], masks and benchmarks of each (pacl.data.all_scenes)."""
    prepared = {}
    for tokens, masks, benchmarks in image_sets:
        for name in (name for name in MEASURED if name in benchmarks):
            table = benchmarks[name]["table"]
            views = [view_of(target_of(masks[i], table), clip.image_size) for i in range(len(masks))]
            text = class_text_features(clip, foreground(benchmarks[name], protocol), templates(protocol.templates))
            patches = torch.from_numpy(np.asarray(tokens)).float()
            prepared[name] = (patches, torch.from_numpy(np.stack(views)), *text, len(benchmarks[name]["classes"]))
    return Scenes(clip, {name: prepared[name] for name in MEASURED if name in prepared})


def measure(scenes: Scenes, embed, embed_text=lambda text: text) -> dict[str, float]:
    """{"patch_accuracy", "voc20", "context59"} (mIoU, no background), at CLIP's plain patch grid; embed: patch features
    -> patch embeddings, embed_text: text features -> text embeddings.
    """
    result = {}
    for name, (tokens, targets, text, phrase_index, count) in scenes.benchmarks.items():
        preds, patch_preds = label_tokens(scenes.clip, embed, tokens, embed_text(text), phrase_index)
        if name == MEASURED[0]:
            result["patch_accuracy"] = patch_accuracy(patch_preds, patch_labels(targets, scenes.clip.patch_size))
        result[name] = mean_iou(confusion_matrix(preds, targets, count))
    return result


@torch.no_grad()
def label_tokens(clip: FrozenCLIP, embed, tokens: Tensor, text: Tensor, phrase_index: Tensor) -> tuple[Tensor, Tensor]:
    """Label maps [M, H, W] and patch labels [M, N] of cached tokens [M, N, D_v]."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    upscale = interpolation_matrix(clip.image_size, h, clip.patch_size, clip.patch_size)
    maps, patches = [], []
    for part in tokens.split(100):
        logits = similarity_map(embed(part.to(clip.device)), text).transpose(1, 2).unflatten(2, (h, w)).cpu()
        maps.append(label_maps(logits, upscale, upscale, Protocol(), phrase_index=phrase_index.cpu()))
        identity = torch.eye(h), torch.eye(w)
        patches.append(label_maps(logits, *identity, Protocol(), phrase_index=phrase_index.cpu()).flatten(1))
    return torch.cat(maps), torch.cat(patches)
