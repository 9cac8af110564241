"""How long a profile's stages take on all its items, from two rehearsals on a few.

A stage's time is a start-up plus a rate times its work. Work is counted in multiplications and additions of CLIP and of
training (paper, section 3) or, where drawing and decoding take longer than CLIP, in images; its unit cancels out.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pacl.clip.frozen import FrozenCLIP
from pacl.data.prepared import all_scenes
from pacl.data.prompts import templates
from pacl.evaluation.ablations.readings import settings_of
from pacl.evaluation.dense import served_by
from pacl.runtime.files import read_json
from pacl.runtime.params import KEPT_SCENES, Protocol, Train
from pacl.segment import window_starts
from pacl.sources import caption_sets, classification_sets, segmentation_sets

TEXT = 0.1  # of an image's operations, at most: a text's in ViT-B/16
NOUNS_GROW = 0.7  # distinct nouns grow with this power of the number of photos, in Flickr8k's first 1,000


def seconds(times: list[float], works: list[float], whole: float) -> float:
    """The time of the whole work from two rehearsals' times and works; no less than the second's."""
    rate = max(0.0, times[1] - times[0]) / max(works[1] - works[0], 1e-9)
    return times[1] + rate * max(0.0, whole - works[1])


@dataclass
class Rehearsed:
    """What a rehearsed project tells of the whole run. sizes: benchmark -> (H, W) of its photos. texts: captions per
    photo, distinct nouns, and the number of photos that have these. kept: benchmark -> how many coarse logits of a
    token stay on the disk, for each image set and size by one of its benchmarks.
    """

    clip: FrozenCLIP
    sizes: dict[str, list[tuple[int, int]]]
    texts: tuple[float, int, int]
    kept: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Path, profile: str, clip: FrozenCLIP) -> "Rehearsed":
        table, sizes = read_json(place / "data/features" / profile / "texts.json"), {}
        for one in all_scenes(place / "data/prepared" / profile, "test").values():
            sizes |= dict.fromkeys(one.benchmarks, [one.images[i].size[::-1] for i in range(len(one.images))])
        photos = sum(len(table[split]["captions"]) for split in ("train", "validation"))
        texts, kept = (len(table["captions"]) / photos, len(table["nouns"]), photos), {}
        for about in map(read_json, (place / "data/dense" / profile).glob("*/kept.json")):
            kept[about["benchmarks"][0]] = sum(map(len, about["texts"].values()))
        return cls(clip, sizes, texts, kept)

    @property
    def layers(self) -> int:
        visual = self.clip.model.visual
        return len(visual.trunk.blocks if self.clip.is_timm else visual.transformer.resblocks)

    def nouns(self, photos: int) -> float:
        """Distinct nouns in the captions of so many photos."""
        _, nouns, known = self.texts
        return nouns * (photos / known) ** NOUNS_GROW

    def scene(self, protocol: Protocol, benchmark: str) -> float:
        """CLIP's operations for a scene, the mean over photos; 0 for an unknown benchmark."""
        shapes = self.sizes.get(benchmark)
        return float(np.mean([self.passes(protocol.on(benchmark), H, W) for H, W in shapes])) if shapes else 0.0

    def passes(self, protocol: Protocol, H: int, W: int) -> float:
        """CLIP's operations for an image of H x W pixels."""
        (count, N), D = self.tokens(protocol, H, W), self.clip.width
        return float(count * self.layers * (24 * N * D**2 + 4 * N**2 * D))

    def tokens(self, protocol: Protocol, H: int, W: int) -> tuple[int, int]:
        """The passes for an image of H x W pixels, its windows and shifts, and the tokens of each."""
        patch = self.clip.patch_size
        scale = (protocol.short_side or min(H, W)) / min(H, W)
        H, W = (max(patch, round(scale * side)) for side in (H, W))
        count, stride = 1, protocol.token_stride or patch
        if protocol.window:
            starts = [window_starts(side, protocol.window, protocol.window_stride) for side in (H, W)]
            count, H, W = len(starts[0]) * len(starts[1]), protocol.window, protocol.window
        if protocol.passes == "shifted":
            count, stride = count * (patch // stride) ** 2, patch
        return count, (1 + (H - patch) // stride) * (1 + (W - patch) // stride)

    def kept_bytes(self, protocol: Protocol, scenes: dict[str, int]) -> float:
        """The coarse logits that stay on the disk, float32, of so many scenes of each benchmark."""
        total = 0.0
        for name, texts in self.kept.items():
            tokens = np.mean([math.prod(self.tokens(protocol.on(name), H, W)) for H, W in self.sizes[name]])
            total += 4 * texts * float(tokens) * min(KEPT_SCENES, scenes[name])
        return total

    def training(self, train: Train) -> float:
        """Operations of a training: the embedder's linear layers and phi of all pairs (see `speed.epoch`)."""
        h, w = self.clip.grid(self.clip.image_size, self.clip.image_size)
        N, D_v, D, B = h * w, self.clip.width, self.clip.dim, train.batch_size
        pair = 2 * N * (4 * D_v * D + 3 * D**2) + 2 * min(2 * N * B * D + 2 * N**2 * (B + D), 5 * N * B * D)
        return float(train.epochs * (train.pairs // B) * B * pair)


def counts(params: SimpleNamespace, rehearsed: Rehearsed) -> SimpleNamespace:
    """The items of a profile, by the data sets' official sizes. sets: the benchmarks of each image set and its test
    scenes. labelled: test and validation images of all classification sets.
    """
    prepare, most, names = params.prepare, params.prepare.classification_images, params.classification.sets
    if prepare.source == "miniworld":
        sets, labelled = [(prepare.benchmarks, prepare.test_scenes)], 2 * most * len(names)
    else:
        found = segmentation_sets.image_sets(prepare.benchmarks)
        official = [int(np.ravel(one["sizes"].get(one["test"], prepare.test_scenes or 0))[0]) for one, _ in found]
        sets = [(own, min(n, prepare.test_scenes or n)) for (_, own), n in zip(found, official, strict=True)]
        official = [classification_sets.described(name).get("images", most or 0) for name in names]
        labelled = sum(min(n, most or n) + prepare.validation_scenes for n in official)
    pairs, (captions, *_) = prepare.train_pairs, rehearsed.texts
    if size := caption_sets.CAPTIONED.get(prepare.source, {}).get("sizes", {}).get("all"):
        pairs = min(pairs, size - prepare.validation_scenes)
    encoded = pairs + prepare.validation_scenes
    own = {"pairs": pairs, "encoded": encoded, "captions": captions * encoded, "labelled": labelled}
    scenes = {name: count for names, count in sets for name in names}
    return SimpleNamespace(sets=sets, scenes=scenes, images=sum(count for _, count in sets), **own)


def work(params: SimpleNamespace, rehearsed: Rehearsed, *, whole: bool) -> dict[str, float]:
    """Each stage's work on all items of a profile, or of a rehearsal, whose lists of templates have one. A stage that
    is not named takes as long for any number of items. params: all sections of the profile.
    """
    segmentation, ablations, found = params.segmentation, params.ablations, counts(params, rehearsed)
    clip = rehearsed.clip
    image = rehearsed.passes(Protocol(), clip.image_size, clip.image_size)
    methods = 1 + (len(segmentation.methods) - 1) / rehearsed.layers  # they differ in CLIP's last block only
    protocols = params.protocols.named(segmentation.protocols)
    streamed = params.train.epochs * params.train.pairs * (1 + TEXT) * image
    native, read_by = params.protocols.native, params.protocols.named(["native", "sclip", "tcl"])
    searched = sum(rehearsed.scene(protocol, "voc21") for protocol in read_by.values())
    strides = [*settings_of(native, ablations.strides, clip.patch_size)["stride"].values()]
    passed = [one for one in strides if one != native and served_by(one, strides, clip.patch_size) == one]
    read = sum(rehearsed.scene(protocol, "voc20") for protocol in passed)

    def prompts(name: str, photos: int) -> float:
        return rehearsed.nouns(photos) * (len(templates(name)) if whole else 1) * TEXT * image

    def point(changes: dict) -> float:
        settings = params.train.model_copy(update={**ablations.base, **changes})
        own = (settings.pairs + found.images) * image if "tokens" in changes else 0.0
        own += prompts(changes["templates"], settings.pairs) if "templates" in changes else 0.0
        return own + len(ablations.seeds) * rehearsed.training(settings) if settings.pairs <= found.pairs else 0.0

    def dense(protocol: Protocol) -> float:  # benchmarks of one image set and one size are read together
        names = [({protocol.on(name).short_side: name for name in own}, count) for own, count in found.sets]
        return sum(count * rehearsed.scene(protocol, name) for own, count in names for name in own.values())

    return {
        "prepare": found.encoded + found.images + found.labelled,
        "features": (found.encoded + found.captions * TEXT) * image + prompts(params.features.templates, found.encoded),
        "train": rehearsed.training(params.train) + (streamed if params.prepare.source == "webdataset" else 0.0),
        "patch_alignment": found.scenes.get(params.patch_alignment.benchmark, 0),
        "segmentation": methods * sum(map(dense, protocols.values())),
        "scenes": min(KEPT_SCENES, found.scenes[segmentation.shown_benchmarks[1]]),
        "classification": found.labelled,
        "world": ablations.base["pairs"] + found.images if params.prepare.source == "miniworld" else 0,
        "ablation_points": found.images * image + sum(map(point, ablations.points.values())),
        "ablations": ablations.inference_scenes * (read + methods * searched),
    }
