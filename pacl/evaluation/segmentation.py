"""Segmentation measured on whole splits, several methods at once (paper, section 4).

By several processes, which share the images and add up their confusion matrices:
torchrun --standalone --nproc_per_node=N -m pacl.evaluation.segmentation --profile PROFILE --output FILE
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from pacl.checkpoints import load_embedder
from pacl.clip.frozen import FrozenCLIP, load_clip_of
from pacl.data.benchmark import Benchmark
from pacl.data.prepared import ImageSet, all_scenes
from pacl.evaluation.dense import Keep, Passes, Reading, measure
from pacl.label_maps import idle_rule
from pacl.metrics import iou_per_class, mean_iou, mean_iou_foreground, mean_iou_labelled, pixel_accuracy
from pacl.runtime.config import load_params
from pacl.runtime.files import write_json
from pacl.runtime.params import Protocol
from pacl.segment import Methods, methods_of
from pacl.training import distributed

ImageSets = dict[str, ImageSet]  # by name, as pacl.data.prepared.all_scenes gives them
Confmats = dict[str, dict[str, Tensor]]  # benchmark -> method -> int64 [K, K]
MEASURES = {"miou": mean_iou, "miou_labelled": mean_iou_labelled, "pixel_accuracy": pixel_accuracy}


def confusion_matrices(
    clip: FrozenCLIP,
    methods: Methods,
    image_sets: ImageSets,
    names: list[str],
    protocols: dict[str, Protocol],
    *,
    batch_size: int = 32,
    keeps: dict[str, list[Keep]] | None = None,
) -> dict[str, Confmats]:
    """Confusion matrices over all images of the named benchmarks, whichever image set they belong to: protocol ->
    benchmark -> method -> int64 [K, K].

    keeps: the coarse logits to write, by image set. Raises ValueError for a benchmark that no set has.
    """
    known = benchmarks_of(image_sets)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there are no scenes of {', '.join(unknown)}: prepare.benchmarks made {', '.join(known)}.")
    found = {}
    for key, scenes in image_sets.items():
        wanted = {name: one for name, one in scenes.benchmarks.items() if name in names}
        readings = {(p, name): Reading(one, protocols[p]) for p in protocols for name, one in wanted.items()}
        found |= measure(Passes(clip, methods, scenes, batch_size, (keeps or {}).get(key, ())), readings)
    return {p: {name: found[p, name] for name in names} for p in protocols}


def keeps_of(folder: Path, image_sets: ImageSets, names: list[str], protocol: Protocol) -> dict[str, list[Keep]]:
    """Which coarse logits later stages read, by image set: of the named benchmarks and of those that the ablations
    read.
    """
    return {
        key: Keep.all_of(folder / (key or "scenes"), scenes.benchmarks, names, protocol)
        for key, scenes in image_sets.items()
    }


def idle_rules(image_sets: ImageSets, names: list[str], protocols: dict[str, Protocol]) -> list[str]:
    """A sentence for each protocol and benchmark whose background no pixel can get, so that its IoU is 0 whatever the
    method.
    """
    found = []
    for (key, protocol), (name, benchmark) in product(protocols.items(), benchmarks_of(image_sets).items()):
        reason = idle_rule(benchmark.settings(protocol), benchmark.texts(protocol))
        if name in names and reason and not benchmark.background_listed(protocol):
            place = f"protocols.{key}.per_benchmark.{name}.background_threshold"
            found.append(f"The background of {name} has an IoU of 0 by protocol {key}: {reason} ({place}).")
    return found


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
        protocols = params.protocols.named(settings.protocols)
        if distributed.rank() == 0:
            sys.stderr.writelines(f"{line}\n" for line in idle_rules(image_sets, names, protocols))
        confmats = confusion_matrices(clip, methods, image_sets, names, protocols, batch_size=settings.batch_size)
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
