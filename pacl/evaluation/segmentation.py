"""Segmentation measured on whole splits, several methods at once (paper, section 4).

By several processes, which share the images and add up their confusion matrices:
torchrun --standalone --nproc_per_node=N -m pacl.evaluation.segmentation --profile PROFILE --output FILE
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain, groupby, islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.checkpoints import load_embedder
from pacl.clip.frozen import FrozenCLIP, load_clip_of
from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.benchmark import Benchmark
from pacl.data.prepared import ImageSet, all_scenes
from pacl.data.prompts import templates
from pacl.label_maps import idle_rule, label_maps
from pacl.metrics import (
    confusion_matrix,
    iou_per_class,
    mean_iou,
    mean_iou_foreground,
    mean_iou_labelled,
    pixel_accuracy,
)
from pacl.runtime.config import load_params
from pacl.runtime.files import read_json, write_json
from pacl.runtime.params import Protocol
from pacl.runtime.processes import in_parts, progress_bar
from pacl.segment import Methods, methods_of, token_logits
from pacl.training import distributed

ImageSets = dict[str, ImageSet]  # by name, as pacl.data.prepared.all_scenes gives them
Confmats = dict[str, dict[str, Tensor]]  # benchmark -> method -> int64 [K, K]
MEASURES = {"miou": mean_iou, "miou_labelled": mean_iou_labelled, "pixel_accuracy": pixel_accuracy}


def confusion_matrices(
    clip: FrozenCLIP,
    methods: Methods,
    image_sets: ImageSets,
    names: list[str],
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> Confmats:
    """Confusion matrices over all images of the named benchmarks, whichever image set they belong to: benchmark ->
    method -> int64 [K, K].

    The images are shared by the ranks of a process group, all of which get the sums, or else, on a CPU, by one process
    a core; batches are those of one process. Raises ValueError for a benchmark that no set has.
    """
    found = {}
    for scenes in measured_together(image_sets, names, protocol):
        measure, count = partial(measure_set, clip, methods, scenes, protocol, batch_size), len(scenes)
        if distributed.world_size() > 1:
            parts = [measure(distributed.own_part(count, batch_size))]
        else:
            parts = in_parts(measure, count, batch_size)
        for name in scenes.benchmarks:
            sums = {method: sum(part[name][method] for part in parts) for method in methods}
            found[name] = {method: distributed.all_reduce(confmat, clip.device) for method, confmat in sums.items()}
    return {name: found[name] for name in names}


def idle_rules(image_sets: ImageSets, names: list[str], protocols: dict[str, Protocol]) -> list[str]:
    """A sentence for each protocol and benchmark whose background no pixel can get, so that its IoU is 0 whatever the
    method.
    """
    benchmarks = {name: one.benchmarks[name] for one in image_sets.values() for name in one.benchmarks if name in names}
    found = []
    for key, protocol in protocols.items():
        for name, benchmark in benchmarks.items():
            reason = idle_rule(benchmark.settings(protocol), benchmark.texts(protocol))
            if reason and not benchmark.background_listed(protocol):
                place = f"protocols.{key}.per_benchmark.{name}.background_threshold"
                found.append(f"The background of {name} has an IoU of 0 by protocol {key}: {reason} ({place}).")
    return found


def measured_together(image_sets: ImageSets, names: list[str], protocol: Protocol) -> list[ImageSet]:
    """The image sets with those of the named benchmarks that share tokens because the protocol wants them at one size.

    Raises ValueError for a benchmark that no set has.
    """
    known = [name for scenes in image_sets.values() for name in scenes.benchmarks]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there are no scenes of {', '.join(unknown)}: prepare.benchmarks made {', '.join(known)}.")
    together = []
    for scenes in image_sets.values():
        by_size = {}
        for name in filter(names.__contains__, scenes.benchmarks):
            by_size.setdefault(protocol.on(name).short_side, {})[name] = scenes.benchmarks[name]
        together += [replace(scenes, benchmarks=benchmarks) for benchmarks in by_size.values()]
    return together


def measure_set(
    clip: FrozenCLIP, methods: Methods, scenes: ImageSet, protocol: Protocol, batch_size: int, part: range
) -> Confmats:
    """Confusion matrices over a part of one image set, whose benchmarks have one short_side: all are measured from the
    same tokens, and methods share all blocks of CLIP but the last.
    """
    texts = texts_of(clip, scenes.benchmarks, protocol)
    union = torch.cat([one.features for one in texts.values()])  # [M, D], every phrase of every benchmark
    phrases = dict(zip(texts, pairwise(accumulate((len(t.features) for t in texts.values()), initial=0)), strict=True))
    settings = {name: benchmark.settings(protocol) for name, benchmark in scenes.benchmarks.items()}
    confmats = {
        name: {method: torch.zeros(len(b.classes), len(b.classes), dtype=torch.long) for method in methods}
        for name, b in scenes.benchmarks.items()
    }
    for images, masks in equal_sizes(scenes.take(part), batch_size):
        tokens = token_logits(clip, methods, images, union, next(iter(settings.values())))
        for name, benchmark in scenes.benchmarks.items():
            targets = torch.from_numpy(np.stack([benchmark.target(mask) for mask in masks]))
            for method, confmat in confmats[name].items():
                own = replace(tokens[method], logits=tokens[method].logits[:, slice(*phrases[name])])
                preds = label_maps(own, texts[name], settings[name])
                confmat += confusion_matrix(preds.cpu(), targets, len(benchmark.classes))
    return confmats


def texts_of(clip: FrozenCLIP, benchmarks: dict[str, Benchmark], protocol: Protocol) -> dict[str, ClassTexts]:
    """The `benchmark_texts` of several benchmarks; a class that several have is embedded once."""
    classes = {name: benchmark.texts(protocol) for name, benchmark in benchmarks.items()}
    distinct = list(dict.fromkeys(chain.from_iterable(classes.values())))
    texts = class_texts(clip, distinct, templates(protocol.templates))
    of_class = {one: texts.features[texts.phrase_index == k] for k, one in enumerate(distinct)}
    return {
        name: ClassTexts(
            torch.cat([of_class[one] for one in own]),
            torch.tensor([k for k, one in enumerate(own) for _ in of_class[one]], device=texts.features.device),
            benchmarks[name].background_listed(protocol),
        )
        for name, own in classes.items()
    }


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


def write_segmentation(folder: Path, confmats: dict[str, Confmats], image_sets: ImageSets) -> dict:
    """Writes segmentation.json, iou_by_class.csv and confusion_matrices.npz, of confusion matrices by protocol,
    benchmark and method; returns what the JSON holds.
    """
    benchmarks = benchmarks_of(image_sets)
    result = scores(confmats, benchmarks)
    rows = [
        (*key, name, iou)
        for key, confmat in each(confmats)
        for name, iou in zip(benchmarks[key[0]].names, iou_per_class(confmat).tolist(), strict=True)
    ]
    write_json(folder / "segmentation.json", result)
    table = pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "class", "iou"])
    table.round(6).to_csv(folder / "iou_by_class.csv", index=False)
    arrays = {"/".join(key): confmat.numpy() for key, confmat in each(confmats)}
    np.savez_compressed(folder / "confusion_matrices.npz", **arrays)
    return result


def read_confusion_matrices(folder: Path, benchmark: str, protocol: str) -> dict[str, Tensor]:
    """One benchmark's by one protocol, method -> int64 [K, K], as `write_segmentation` wrote them. Raises
    FileNotFoundError, or ValueError for a corrupt file.
    """
    path, methods = folder / "confusion_matrices.npz", read_json(folder / "segmentation.json")[benchmark][protocol]
    try:
        with np.load(path) as stored:
            matrices = {key: torch.from_numpy(stored[key]) for key in stored}  # zipfile checks only what is read
        return {method: matrices[f"{benchmark}/{protocol}/{method}"] for method in methods}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except Exception as error:  # NumPy's reader raises nearly every kind for a damaged file
        raise ValueError(f"{path} is corrupt ({error}): remove it and run `dvc repro segmentation`.") from None


def benchmarks_of(image_sets: ImageSets) -> dict[str, Benchmark]:
    return {name: benchmark for one in image_sets.values() for name, benchmark in one.benchmarks.items()}


def scores(confmats: dict[str, Confmats], benchmarks: dict[str, Benchmark]) -> dict:
    """benchmark -> protocol -> method -> each of MEASURES, of confusion matrices by protocol, benchmark and method;
    miou_foreground where the benchmark has a background.
    """
    found = {}
    for (benchmark, protocol, method), confmat in each(confmats):
        of_method = {name: measure(confmat) for name, measure in MEASURES.items()}
        if benchmarks[benchmark].has_background:
            of_method["miou_foreground"] = mean_iou_foreground(confmat)
        found.setdefault(benchmark, {}).setdefault(protocol, {})[method] = of_method
    return found


def each(confmats: dict[str, Confmats]) -> Iterator[tuple[tuple[str, str, str], Tensor]]:
    """(benchmark, protocol, method) and the confusion matrix, of those by protocol, benchmark and method."""
    for protocol, of_protocol in confmats.items():
        for benchmark, of_benchmark in of_protocol.items():
            for method, confmat in of_benchmark.items():
                yield (benchmark, protocol, method), confmat


def measure_profile(profile: str, output: Path) -> None:
    """Measures checkpoints/PROFILE/best as notebook 5 does, and writes what segmentation.json holds."""
    params = load_params(profile, "model", "protocols", "segmentation")
    settings, image_sets = params.segmentation, all_scenes(Path("data/prepared", profile), "test")
    with distributed.process_group():
        clip = load_clip_of(params.model)
        embedder, _ = load_embedder(Path("checkpoints", profile, "best"), clip)
        methods, names = methods_of(clip, embedder, settings.methods), settings.benchmarks
        if distributed.rank() == 0:
            sys.stderr.writelines(
                f"{line}\n" for line in idle_rules(image_sets, names, params.protocols.named(settings.protocols))
            )
        confmats = {
            key: confusion_matrices(clip, methods, image_sets, names, protocol, batch_size=settings.batch_size)
            for key, protocol in params.protocols.named(settings.protocols).items()
        }
        if distributed.rank() == 0:
            write_json(output, scores(confmats, benchmarks_of(image_sets)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m pacl.evaluation.segmentation", description="Measures the segmentation of a trained profile."
    )
    parser.add_argument("--profile", default="mini", help="a section of params.yaml")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    folder = next(path for path in arguments.output.absolute().parents if path.exists())
    if arguments.output.is_dir() or not folder.is_dir():  # or it would come out after hours
        sys.exit(f"{arguments.output} can't be written: let --output name a file in a folder.")
    try:
        measure_profile(arguments.profile, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
