"""Test scenes as the ablations measure them: tokens, label maps and class texts, gathered once (paper, section 4)."""

from pathlib import Path

import numpy as np
import torch

from pacl.clip.features import tokens_of
from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.benchmark import foreground, target_of
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.ablations.quick import MEASURED, Scenes, save_scenes, scenes_file
from pacl.evaluation.patches import view_of
from pacl.metrics import patch_labels
from pacl.runtime.params import Protocol
from pacl.segment import interpolation_matrix


def scenes_by_benchmark(
    clip: FrozenCLIP, image_sets: dict[str, tuple[Images, Masks, dict]], protocol: Protocol, *, batch_size: int
) -> dict[str, Scenes]:
    """The benchmarks that `pacl.evaluation.ablations.quick.measure` knows, of the image sets of pacl.data.prepared.all_scenes."""
    found = {}
    for images, masks, benchmarks in image_sets.values():
        own = [name for name in MEASURED if name in benchmarks]
        tokens = torch.from_numpy(tokens_of(clip, images, batch_size)) if own else None
        found |= {name: scenes_of(clip, tokens, masks, benchmarks[name], protocol) for name in own}
    return {name: found[name] for name in MEASURED if name in found}


def scenes_of(clip: FrozenCLIP, tokens: torch.Tensor, masks: Masks, benchmark: dict, protocol: Protocol) -> Scenes:
    """One benchmark's, of patch tokens [M, N, D_v]."""
    views = [view_of(target_of(masks[i], benchmark["table"]), clip.image_size) for i in range(len(masks))]
    targets = torch.from_numpy(np.stack(views))
    text, index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    side = clip.grid(clip.image_size, clip.image_size)[0]
    return Scenes(
        tokens=tokens,
        targets=targets,
        patch_targets=patch_labels(targets, clip.patch_size),
        text=text.cpu(),
        phrase_index=index.cpu(),
        upscale=interpolation_matrix(clip.image_size, side, clip.patch_size, clip.patch_size, clip.image_size),
        classes=len(benchmark["classes"]),
    )


def write_targets(folder: Path, benchmarks: dict[str, Scenes]) -> None:
    """Keeps them in a folder of features, for all ablation points."""
    for name, scenes in benchmarks.items():
        save_scenes(scenes, scenes_file(folder, name))
