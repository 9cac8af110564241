"""Dense evaluation (paper, section 4): one pass of each image through CLIP leaves coarse logits, the cosines of its
tokens with every text that anyone asks for, and all label maps, heat maps and measures are read from these.

The stage segmentation writes those of the first scenes to data/dense/PROFILE, for the stages scenes and ablations.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.benchmark import Benchmark, phrases_of
from pacl.data.prepared import ImageSet
from pacl.data.prompts import templates
from pacl.label_maps import TokenLogits, label_maps_by
from pacl.metrics import confusion_matrix
from pacl.runtime.files import read_json, write_json
from pacl.runtime.params import KEPT_SCENES, Protocol
from pacl.runtime.processes import in_parts, progress_bar
from pacl.training import distributed

Text = tuple[str, str]  # the name of a list of templates, and a phrase
Run = Callable[[range], Iterator[tuple["Coarse", list[np.ndarray]]]]  # some scenes' coarse logits and masks, in batches
MAPS_AT_ONCE = 12  # label maps of a batch that are held together
GEOMETRY = ("short_side", "long_side", "resize", "window", "window_stride", "token_stride", "passes", "positions")
READ_TEMPLATES = ("plain", "one", "seven", "imagenet80")  # those that the ablations read PACL with,
READ_BENCHMARKS = ("voc20", "voc21", "context59")  # on these benchmarks


def geometry(protocol: Protocol) -> tuple:
    """What of a protocol decides which tokens an image has."""
    return tuple(getattr(protocol, name) for name in GEOMETRY)


def served_by(protocol: Protocol, others: Iterable[Protocol], patch_size: int) -> Protocol:
    """Whose passes have a protocol's tokens, without windows: its own, or the shifted ones of a smaller stride, which
    have those of a wider stride and of the plain grid, too.
    """
    stride = protocol.token_stride or patch_size
    if protocol.window or protocol.passes == "joint" and stride < patch_size:
        return protocol
    finer = [one for one in others if one.passes == "shifted" and not stride % (one.token_stride or patch_size)]
    own = {name: getattr(protocol, name) for name in ("token_stride", "passes")}
    alike = [one for one in finer if geometry(one.model_copy(update=own)) == geometry(protocol)]
    return min(alike, key=lambda one: one.token_stride or patch_size, default=protocol)


@dataclass(frozen=True)
class Coarse:
    """The coarse logits of a batch of images, by method; texts: where each text stands among a method's logits; thin:
    makes them those of a protocol with fewer of these tokens.
    """

    logits: dict[str, TokenLogits]
    texts: dict[str, dict[Text, int]]
    thin: Callable[[TokenLogits, Protocol], TokenLogits] = lambda logits, protocol: logits

    def of(self, method: str, texts: Iterable[Text]) -> TokenLogits:
        """One method's logits of these texts, [B, M, h, w]. Raises ValueError for a text that they lack."""
        whole, places = self.logits[method], self.texts[method]
        if missing := [text for text in texts if text not in places]:
            raise ValueError(
                f"there are no coarse logits of {missing[0][1]!r} in templates {missing[0][0]}: run `dvc repro "
                "segmentation` again."
            )
        return replace(whole, logits=whole.logits[:, [places[text] for text in texts]])


@dataclass(frozen=True)
class Reading:
    """A way to read label maps from coarse logits: a benchmark's classes in a protocol, by some methods or all."""

    benchmark: Benchmark
    protocol: Protocol
    methods: tuple[str, ...] | None = None

    @cached_property
    def settings(self) -> Protocol:
        return self.benchmark.settings(self.protocol)

    @cached_property
    def phrases(self) -> list[list[str]]:
        """Those of each class that gets a text."""
        return [phrases_of(name) for name in self.benchmark.texts(self.protocol)]

    @cached_property
    def texts(self) -> list[Text]:
        return [(self.protocol.templates, phrase) for phrase in chain.from_iterable(self.phrases)]

    @property
    def words(self) -> tuple:
        """What two readings share if they differ in scale and rule only."""
        listed = self.benchmark.background_listed(self.protocol)
        return self.benchmark, tuple(self.texts), listed, geometry(self.settings)

    def label_maps(self, coarse: Coarse, method: str) -> Tensor:
        """int64 [B, H, W]."""
        return label_maps_of([self], coarse, method)[0]


def label_maps_of(readings: list[Reading], coarse: Coarse, method: str) -> Tensor:
    """Those of several readings with the same words, int64 [P, B, H, W], upscaled once."""
    first = readings[0]
    index = torch.tensor([k for k, group in enumerate(first.phrases) for _ in group])
    texts = ClassTexts(None, index, first.benchmark.background_listed(first.protocol))
    logits = coarse.thin(coarse.of(method, first.texts), first.settings)
    return label_maps_by(logits, texts, [one.settings for one in readings])


class Passes:
    """Coarse logits of scenes by passes through CLIP. keeps: which of them to write."""

    def __init__(self, clip, methods, scenes: ImageSet, batch_size: int, keeps: "Iterable[Keep]" = ()):
        self.clip, self.device, self.methods, self.scenes = clip, clip.device, methods, scenes
        self.batch_size, self.keeps = batch_size, keeps

    def __call__(self, texts: Iterable[Text], protocol: Protocol) -> Run:
        """What makes a part of the scenes' logits of these texts: one pass an image, which all methods share but for
        CLIP's last block. Embeds the texts here, before any fork.
        """
        # open_clip takes seconds to import, and kept logits don't need it
        from pacl.segment import thinned, token_logits

        keeps = [one for one in self.keeps if one.geometry == geometry(protocol)]
        own = list(dict.fromkeys(texts))
        every = list(dict.fromkeys([*own, *(text for one in keeps for some in one.texts.values() for text in some)]))
        features = torch.cat([class_texts(self.clip, [phrase], templates(name)).features for name, phrase in every])

        def run(part: range) -> Iterator[tuple[Coarse, list[np.ndarray]]]:
            first = part.start
            for images, masks in equal_sizes(self.scenes.take(part), self.batch_size):
                some = every if first < KEPT_SCENES else own
                logits = token_logits(self.clip, self.methods, images, features[: len(some)], protocol)
                places = dict.fromkeys(self.methods, {text: i for i, text in enumerate(some)})
                coarse = Coarse(logits, places, partial(thinned, self.clip, protocol))
                for one in keeps:
                    one.write(first, coarse)
                first += len(masks)
                yield coarse, masks

        return run

    def serving(self, protocol: Protocol, others: Iterable[Protocol]) -> Protocol:
        """`served_by`, but for what is to be written."""
        if geometry(protocol) in [one.geometry for one in self.keeps]:
            return protocol
        return served_by(protocol, others, self.clip.patch_size)


@dataclass(frozen=True)
class Keep:
    """What to write to a folder for `Kept`: the coarse logits of one geometry with `texts`, by method."""

    folder: Path
    geometry: tuple
    texts: dict[str, list[Text]]

    @classmethod
    def all_of(
        cls, folder: Path, benchmarks: dict[str, Benchmark], names: list[str], protocol: Protocol
    ) -> list["Keep"]:
        """Those of an image set: every word for its benchmarks with these names in the protocol's templates; for PACL,
        also those that the ablations read. Writes the lists.
        """
        by_geometry = {geometry(benchmarks[name].settings(protocol)): [] for name in names if name in benchmarks}
        for name, one in benchmarks.items():
            if name in (*names, *READ_BENCHMARKS) and (its := geometry(one.settings(protocol))) in by_geometry:
                by_geometry[its].append(one)
        groups = enumerate(by_geometry.items())
        return [cls.of(folder.with_name(f"{folder.name}-{i}"), *group, protocol) for i, group in groups]

    @classmethod
    def of(cls, folder: Path, geometry: tuple, benchmarks: list[Benchmark], protocol: Protocol) -> "Keep":
        own = [(protocol.templates, word) for one in benchmarks for word in words_of(one, protocol)]
        read = [word for one in benchmarks if one.name in READ_BENCHMARKS for word in words_of(one, protocol)]
        more = [(name, word) for name in READ_TEMPLATES for word in read]
        texts = {"clip": list(dict.fromkeys(own)), "pacl": list(dict.fromkeys(own + more))}
        names = [one.name for one in benchmarks]
        write_json(folder / "kept.json", {"benchmarks": names, "geometry": geometry, "texts": texts})
        return cls(folder, geometry, texts)

    def write(self, first: int, coarse: Coarse) -> None:
        """The logits of a batch of images, of which the first has this number; of the first KEPT_SCENES only."""
        if first >= KEPT_SCENES:
            return
        kept = {method: coarse.of(method, texts) for method, texts in self.texts.items()}
        sides = {"rows": kept["pacl"].rows.cpu(), "columns": kept["pacl"].columns.cpu()}
        for i, logits in enumerate(zip(*(one.logits.cpu() for one in kept.values()), strict=True), first):
            save_file(dict(zip(kept, logits, strict=True)) | sides, self.folder / f"{i:05d}.safetensors")


def words_of(benchmark: Benchmark, protocol: Protocol) -> list[str]:
    """Every phrase of its classes, whether or not the protocol gives them a text, and of the protocol's own words."""
    return [phrase for name in (*benchmark.texts(protocol), *benchmark.classes) for phrase in phrases_of(name)]


class Kept:
    """The coarse logits of the first KEPT_SCENES of an image set that `Keep` wrote, in place of `Passes`."""

    batch_size, device = 1, torch.device("cpu")

    def __init__(self, folder: Path, scenes: ImageSet):
        about = read_json(folder / "kept.json", "benchmarks", "geometry", "texts")
        self.folder, self.scenes = folder, scenes.first(KEPT_SCENES)
        self.benchmarks, self.geometry, self.methods = about["benchmarks"], tuple(about["geometry"]), [*about["texts"]]
        self.texts = {method: {tuple(text): i for i, text in enumerate(own)} for method, own in about["texts"].items()}

    def has(self, reading: Reading) -> bool:
        """Whether PACL's logits for a reading are kept."""
        return self.geometry == geometry(reading.settings) and self.texts["pacl"].keys() >= set(reading.texts)

    def __call__(self, texts: Iterable[Text], protocol: Protocol) -> Run:
        return lambda part: ((self.read(i), [self.scenes.masks[i]]) for i in part)

    def serving(self, protocol: Protocol, others: Iterable[Protocol]) -> Protocol:
        """Its own, the only ones that are kept."""
        return protocol

    def read(self, number: int) -> Coarse:
        """One scene's. Raises FileNotFoundError, or ValueError for a corrupt file."""
        path = self.folder / f"{number:05d}.safetensors"
        try:
            stored = load_file(path)
            sides = stored["rows"], stored["columns"]
            return Coarse({name: TokenLogits(stored[name][None], *sides) for name in self.methods}, self.texts)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing: run `dvc repro segmentation`, or notebook 5.") from None
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is corrupt ({error}): remove it and run `dvc repro segmentation`.") from None


def find_kept(
    folder: Path, scenes: ImageSet, benchmark: str, protocol: Protocol, *, needed: bool = True
) -> Kept | None:
    """Those of a benchmark in a protocol's geometry. Raises FileNotFoundError if there are none but they are needed."""
    wanted = geometry(scenes.benchmarks[benchmark].settings(protocol))
    for path in sorted(folder.glob("*/kept.json")):
        kept = Kept(path.parent, scenes)
        if benchmark in kept.benchmarks and kept.geometry == wanted:
            return kept
    if needed:
        raise FileNotFoundError(f"{folder} has no coarse logits of {benchmark}: run `dvc repro segmentation`.")
    return None


def measure(passes: Passes | Kept, readings: dict[Hashable, Reading]) -> dict[Hashable, dict[str, Tensor]]:
    """Confusion matrices over all scenes by reading and method, int64 [K, K]; readings whose tokens are among those of
    one geometry share one pass of each image.

    The images are shared by the ranks of a process group, all of which get the sums, or else, on a CPU, by one process
    a core; batches are those of one process.
    """
    groups, found, count = {}, {}, len(passes.scenes)
    protocols = {geometry(one.settings): one.settings for one in readings.values()}
    for key, reading in readings.items():
        serving = geometry(passes.serving(reading.settings, protocols.values()))
        groups.setdefault(serving, {})[key] = reading
    for serving, group in groups.items():
        run = passes(chain.from_iterable(one.texts for one in group.values()), protocols[serving])
        if distributed.world_size() > 1:
            parts = [counted(run, group, passes.methods, distributed.own_part(count, passes.batch_size))]
        else:
            parts = in_parts(partial(counted, run, group, passes.methods), count, passes.batch_size)
        for key in group:
            sums = {method: sum(part[key][method] for part in parts) for method in parts[0][key]}
            found[key] = {method: distributed.all_reduce(one, passes.device) for method, one in sums.items()}
    return {key: found[key] for key in readings}


def counted(run: Run, readings: dict[Hashable, Reading], methods: Iterable[str], part: range) -> dict:
    """`measure` of a part of the scenes, all readings of one geometry."""
    alike, found = {}, {key: {} for key in readings}
    for key, one in readings.items():
        for method in one.methods or methods:
            alike.setdefault((one.words, method), []).append(key)
            found[key][method] = torch.zeros(2 * [len(one.benchmark.classes)], dtype=torch.long)
    for coarse, masks in run(part):
        targets = {
            one: torch.from_numpy(np.stack([one.target(mask) for mask in masks]))
            for one in {reading.benchmark for reading in readings.values()}
        }
        for ((benchmark, *_), method), keys in alike.items():
            for some in (keys[i : i + MAPS_AT_ONCE] for i in range(0, len(keys), MAPS_AT_ONCE)):
                maps = label_maps_of([readings[key] for key in some], coarse, method).cpu()
                for key, preds in zip(some, maps, strict=True):
                    found[key][method] += confusion_matrix(preds, targets[benchmark], len(benchmark.classes))
    return found


def equal_sizes(scenes: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, list[np.ndarray]]]:
    """Batches of consecutive images of one size: uint8 [B, 3, H, W] and their B masks. Raises ValueError for a mask
    whose size is not that of its image.
    """
    images, masks = scenes.images, scenes.masks
    pairs = progress_bar(((images[i], masks[i]) for i in range(len(images))), total=len(images), desc="scenes")
    for _, group in groupby(pairs, key=lambda pair: pair[0].size):
        while batch := list(islice(group, batch_size)):
            for image, mask in batch:
                if mask.shape != image.size[::-1]:
                    raise ValueError(
                        f"a mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                        f"{image.width} x {image.height}: they must be of one size."
                    )
            pictures = np.stack([np.array(image.convert("RGB")) for image, _ in batch])
            yield torch.from_numpy(pictures).permute(0, 3, 1, 2), [mask for _, mask in batch]
