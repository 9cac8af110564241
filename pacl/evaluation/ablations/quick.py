"""Measures an embedder in seconds, from patch tokens of the test scenes as CLIP crops them: for ablations, where every
point is trained and measured for every seed (paper, section 4).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pacl.label_maps import label_maps, predict
from pacl.metrics import IGNORE_INDEX, confusion_matrix, mean_iou
from pacl.model import similarity_map
from pacl.runtime.params import Protocol

MEASURED = ("voc20", "context59")  # benchmarks, where a source has them; patch accuracy is the first one's


@dataclass(frozen=True)
class Scenes:
    """A benchmark's test scenes as CLIP crops them, and what labels them (made by pacl.evaluation.ablations.targets).

    tokens: float16 [M, N, D_v]. targets: uint8 [M, H, H], class indices. patch_targets: int64 [M, N], the majority's.
    text: [K, D]. phrase_index: the class of each phrase, [K]. upscale: [H, h], weights from tokens to pixels. classes:
    their number.
    """

    tokens: Tensor
    targets: Tensor
    patch_targets: Tensor
    text: Tensor
    phrase_index: Tensor
    upscale: Tensor
    classes: int


def save_scenes(scenes: Scenes, path: Path) -> None:
    tensors = {name: value.contiguous() for name, value in vars(scenes).items() if name != "classes"}
    save_file(tensors, path, {"classes": json.dumps(scenes.classes)})


def load_scenes(path: Path) -> Scenes:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Scenes(**tensors, classes=json.loads(file.metadata()["classes"]))


def scenes_file(folder: Path, benchmark: str) -> Path:
    """Where the features stage keeps a benchmark's Scenes."""
    return folder / f"measured_{benchmark}.safetensors"


def measure(benchmarks: dict[str, Scenes], embed, embed_text=lambda text: text) -> dict[str, float]:
    """{"patch_accuracy", "voc20", "context59"} (mIoU, no background), at CLIP's plain patch grid; embed: patch features
    -> patch embeddings, embed_text: text features -> text embeddings.
    """
    result = {}
    for name, scenes in benchmarks.items():
        preds, patch_preds = label_tokens(scenes, embed, embed_text)
        if name == MEASURED[0]:
            labelled = scenes.patch_targets != IGNORE_INDEX
            right = patch_preds[labelled] == scenes.patch_targets[labelled]
            result["patch_accuracy"] = right.double().mean().item()
        result[name] = mean_iou(confusion_matrix(preds, scenes.targets, scenes.classes))
    return result


@torch.no_grad()
def label_tokens(scenes: Scenes, embed, embed_text) -> tuple[Tensor, Tensor]:
    """Label maps [M, H, H] and patch labels [M, N]."""
    side = scenes.upscale.shape[1]
    text, maps, patches = embed_text(scenes.text), [], []
    for part in scenes.tokens.split(100):
        logits = similarity_map(embed(part.float()).cpu(), text).transpose(1, 2).unflatten(2, (side, side))
        maps.append(label_maps(logits, scenes.upscale, scenes.upscale, Protocol(), phrase_index=scenes.phrase_index))
        patches.append(predict(logits, 1.0, phrase_index=scenes.phrase_index).flatten(1))
    return torch.cat(maps), torch.cat(patches)
