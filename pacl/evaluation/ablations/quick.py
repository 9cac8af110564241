"""Trains and measures an embedder in seconds, from patch tokens of images as CLIP crops them: for the ablations, which
repeat it for every point and seed (paper, section 4).
"""

from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pacl.clip.features import Texts, noun_features, read_features, tokens_of
from pacl.clip.frozen import FrozenCLIP, load_clip_of
from pacl.clip.texts import ClassTexts
from pacl.data.benchmark import Benchmark
from pacl.data.images import Masks
from pacl.data.prepared import ImageSet, all_scenes, read_pairs
from pacl.evaluation.patches import cropped_targets
from pacl.label_maps import TokenLogits, label_maps, predict
from pacl.metrics import confusion_matrix, mean_iou, patch_accuracy
from pacl.model import similarity_map
from pacl.runtime.files import read_json
from pacl.runtime.params import Protocol, Train
from pacl.runtime.processes import in_parts
from pacl.segment import Embed, benchmark_texts, interpolation_matrix, unchanged
from pacl.training.cached import CachedPairs
from pacl.training.train import train

# benchmarks, where a source has them; patch accuracy is that of the first
MEASURED = ("voc_seen", "voc20", "context59", "coco_stuff")


@dataclass(frozen=True)
class Scenes:
    """The test scenes of one benchmark, as CLIP crops them.

    tokens: float16 [M, N, D_v]. targets: uint8 [M, H, H], class indices. patch_targets: int64 [M, N], of the majority.
    texts: of the classes, on the CPU. upscale: [H, h], weights from tokens to pixels. classes: their number.
    """

    tokens: Tensor
    targets: Tensor
    patch_targets: Tensor
    texts: ClassTexts
    upscale: Tensor
    classes: int


def scenes_by_benchmark(
    clip: FrozenCLIP, image_sets: dict[str, ImageSet], protocol: Protocol, *, batch_size: int
) -> dict[str, Scenes]:
    """The scenes of the MEASURED benchmarks that the image sets have."""
    sets = {name: one for one in image_sets.values() for name in one.benchmarks}
    return {
        name: scenes_of(clip, tokens, sets[name].masks, sets[name].benchmarks[name], protocol)
        for name, tokens in tokens_by_benchmark(clip, image_sets, batch_size).items()
    }


def tokens_by_benchmark(clip: FrozenCLIP, image_sets: dict[str, ImageSet], batch_size: int) -> dict[str, Tensor]:
    """The tokens of the MEASURED benchmarks' scenes, those of an image set computed once."""
    found = {}
    for scenes in image_sets.values():
        if own := [name for name in MEASURED if name in scenes.benchmarks]:
            found |= dict.fromkeys(own, torch.from_numpy(tokens_of(clip, scenes.images, batch_size)))
    return {name: found[name] for name in MEASURED if name in found}


def scenes_of(clip: FrozenCLIP, tokens: Tensor, masks: Masks, benchmark: Benchmark, protocol: Protocol) -> Scenes:
    texts = benchmark_texts(clip, benchmark, protocol)
    side = clip.grid(clip.image_size, clip.image_size)[0]
    return Scenes(
        tokens,
        *cropped_targets(clip, masks, benchmark),
        texts=ClassTexts(texts.features.cpu(), texts.phrase_index.cpu()),
        upscale=interpolation_matrix(clip.image_size, side, clip.patch_size, clip.patch_size, clip.image_size),
        classes=len(benchmark.classes),
    )


class PointTrainer:
    """Trains the ablation points of a profile, from what they share: the training pairs' tokens and texts, and the test
    scenes. params: the sections model, features, train, protocols and ablations.
    """

    def __init__(self, profile: str, params):
        self.profile, self.params, self.prepared = profile, params, Path("data/prepared", profile)
        features = Path("data/features", profile)
        self.tokens, self.texts = read_features(features / "train_patches.npy", 3), Texts(features, "train")
        self.nouns = read_json(features / "texts.json", "nouns")["nouns"]
        self.clip = load_clip_of(params.model)
        image_sets, protocol = all_scenes(self.prepared, "test"), params.protocols.native
        self.scenes = scenes_by_benchmark(self.clip, image_sets, protocol, batch_size=params.features.batch_size)

    def results(self, changes: dict, settings: list[Train]) -> dict:
        """{"runs": one a seed, its seed and what `measure` says}; for more pairs than there are, why it was skipped."""
        pairs, tokens, texts, scenes = settings[0].pairs, self.tokens, self.texts, self.scenes
        if pairs > len(tokens):
            return {"skipped": f"needs {pairs:,} pairs, {self.profile} has {len(tokens):,}", "runs": []}
        if (templates := changes.get("templates", self.params.features.templates)) != self.params.features.templates:
            texts = copy(texts)
            last = max(chain.from_iterable(texts.nouns[:pairs]), default=-1)  # the first images' nouns are the first
            texts.noun_features = noun_features(self.clip, self.nouns[: last + 1], templates)
        if (kind := changes.get("tokens", self.params.model.tokens)) != self.params.model.tokens:
            clip, images = load_clip_of(self.params.model, tokens=kind), read_pairs(self.prepared, "train")[0]
            batch_size, image_sets = self.params.features.batch_size, all_scenes(self.prepared, "test")
            others = tokens_by_benchmark(clip, image_sets, batch_size)
            scenes = {name: replace(one, tokens=others[name]) for name, one in scenes.items()}
            tokens = tokens_of(clip, images.take(range(pairs)), batch_size)

        def runs(part: range) -> list[dict]:
            own = settings[part.start : part.stop]
            return [{"seed": one.seed, **train_and_measure(tokens, texts, scenes, one)} for one in own]

        of_seeds = in_parts(runs, len(settings), parts=len(settings))  # more processes than cores leave none idle
        return {"runs": [run for part in of_seeds for run in part]}


def train_and_measure(tokens: np.ndarray, texts: Texts, scenes: dict[str, Scenes], settings: Train) -> dict[str, float]:
    """`measure` of an embedder trained on these images' tokens [M, N, D_v] and texts."""
    embedder, _ = train(CachedPairs(tokens, texts, settings), settings)
    return measure(scenes, embedder.cpu(), embedder.text_embedder)


def measure(scenes: dict[str, Scenes], embed: Embed, embed_text: Embed = unchanged) -> dict[str, float]:
    """{"patch_accuracy"} and the mean IoU (no background rule) of each benchmark, on CLIP's plain grid of patches.

    embed: patch features -> patch embeddings. embed_text: text features -> text embeddings.
    """
    result = {}
    for name, one in scenes.items():
        preds, patch_preds = label_tokens(one, embed, embed_text)
        if not result:
            result["patch_accuracy"] = patch_accuracy(patch_preds, one.patch_targets)
        result[name] = mean_iou(confusion_matrix(preds, one.targets, one.classes))
    return result


@torch.no_grad()
def label_tokens(scenes: Scenes, embed: Embed, embed_text: Embed) -> tuple[Tensor, Tensor]:
    """Label maps [M, H, H] and patch labels [M, N]."""
    side = scenes.upscale.shape[1]
    text, maps, patches = embed_text(scenes.texts.features), [], []
    for part in scenes.tokens.split(100):
        logits = similarity_map(embed(part.float()).cpu(), text).transpose(1, 2).unflatten(2, (side, side))
        maps.append(label_maps(TokenLogits(logits, scenes.upscale, scenes.upscale), scenes.texts, Protocol()))
        patches.append(predict(logits, scenes.texts, Protocol()).flatten(1))
    return torch.cat(maps), torch.cat(patches)
