"""What changes when one trained model is read in other ways: token stride, prompt templates, background rule (paper,
section 4 and appendix). Nothing is trained: one run a setting.
"""

from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.clip.frozen import FrozenCLIP
from pacl.data.benchmark import Benchmark
from pacl.data.prepared import ImageSet
from pacl.evaluation.ablations.findings import STRAW_MAN
from pacl.evaluation.segmentation import ImageSets, confusion_matrices, equal_sizes
from pacl.label_maps import label_maps
from pacl.metrics import confusion_matrix, mean_iou
from pacl.runtime.params import Ablations, Protocol
from pacl.runtime.processes import in_parts
from pacl.segment import Method, Methods, benchmark_texts, token_logits

TEMPLATES = {"plain": "the name alone", "one": "one", "seven": "seven (the paper)", "imagenet80": "80 (ImageNet's)"}
RULES = {
    "entropy above 1.5 nats (the paper)": ("entropy", 1.5),
    "entropy above 1.0 nats": ("entropy", 1.0),
    "probability below 0.5 (TCL's)": ("probability", 0.5),
    "probability below 0.1 (SCLIP's)": ("probability", 0.1),
    STRAW_MAN: ("none", 0.0),
}
SCALES = (2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 65.0, 100.0)  # logit scales that a rule is tried with


def settings_of(
    native: Protocol, strides: list[int], patch_size: int, scales: dict[str, float] | None = None
) -> dict[str, dict[str, Protocol]]:
    """group -> what a figure calls a setting -> the native protocol with that change.

    scales: the logit scale of each background rule; native's where there is none.
    """
    passes = [(s, p) for s in strides for p in ("joint", "shifted") if s < patch_size or p == "joint"]
    return {
        "stride": {
            f"{s} pixels" + (f", {p}" if s < patch_size else ""): changed(native, token_stride=s, passes=p)
            for s, p in passes
        },
        "prompts": {setting: changed(native, templates=name) for name, setting in TEMPLATES.items()},
        "background": {
            setting: changed(
                native,
                background_rule=rule,
                background_threshold=threshold,
                logit_scale=(scales or {}).get(setting, native.logit_scale),
            )
            for setting, (rule, threshold) in RULES.items()
        },
    }


def changed(protocol: Protocol, **changes) -> Protocol:
    return protocol.model_copy(update=changes)


def background_rules(native: Protocol) -> dict[str, Protocol]:
    """The native protocol with each background rule, by what figures call it."""
    rules = settings_of(native, [], 1)["background"]
    return {setting: protocol for setting, protocol in rules.items() if protocol.background_rule != "none"}


def scale_table(
    clip: FrozenCLIP, methods: Methods, image_sets: ImageSets, protocols: dict[str, Protocol], count: int
) -> pd.DataFrame:
    """mIoU on voc21 of each protocol and method with each of SCALES as logit scale, on the first `count` scenes:
    columns protocol, method, logit_scale, voc21; no rows where no image set has voc21.

    The threshold of a background rule means nothing without a scale: both must be chosen together, on validation
    scenes.
    """
    rows = []
    for scenes in image_sets.values():
        for name, protocol in protocols.items() if "voc21" in scenes.benchmarks else ():
            confmats = confmats_of_scales(clip, methods, scenes.first(count), scenes.benchmarks["voc21"], protocol)
            rows += [(name, *method_and_scale, mean_iou(confmat)) for method_and_scale, confmat in confmats.items()]
    return pd.DataFrame(rows, columns=["protocol", "method", "logit_scale", "voc21"])


def best_scales(table: pd.DataFrame) -> dict[str, float]:
    """protocol -> the logit scale with its highest mIoU in a `scale_table` of one method."""
    return table.loc[table.groupby("protocol").voc21.idxmax()].set_index("protocol").logit_scale.to_dict()


def confmats_of_scales(
    clip: FrozenCLIP, methods: Methods, scenes: ImageSet, benchmark: Benchmark, protocol: Protocol
) -> dict[tuple[str, float], Tensor]:
    """Confusion matrices of one benchmark by method and logit scale, all scales of the same cosines."""
    texts = benchmark_texts(clip, benchmark, protocol)

    def measured(part: range) -> dict[tuple[str, float], Tensor]:
        found = dict.fromkeys(product(methods, SCALES), 0)
        for images, masks in equal_sizes(scenes.take(part), 16):
            targets = torch.from_numpy(np.stack([benchmark.target(mask) for mask in masks]))
            tokens = token_logits(clip, methods, images, texts.features, protocol)
            for method, scale in found:
                preds = label_maps(tokens[method], texts, changed(protocol, logit_scale=scale)).cpu()
                found[method, scale] += confusion_matrix(preds, targets, len(benchmark.classes))
        return found

    parts = in_parts(measured, len(scenes), 16)
    return {key: sum(part[key] for part in parts) for key in product(methods, SCALES)}


def readings_table(
    clip: FrozenCLIP, method: Method, scenes: ImageSet, native: Protocol, settings: Ablations, scales: dict[str, float]
) -> pd.DataFrame:
    """mIoU of one trained model, read in several ways, on the first `inference_scenes` test scenes: columns group,
    point, setting, seed, and benchmarks (voc20 and context59; for the background rule voc21). scales: see
    `settings_of`.
    """
    scenes, rows = scenes.first(settings.inference_scenes), []
    for group, changes in settings_of(native, settings.strides, clip.patch_size, scales).items():
        wanted = ("voc21",) if group == "background" else ("voc20", "context59")
        measured = [name for name in wanted if name in scenes.benchmarks]
        for setting, protocol in changes.items():
            confmats = confusion_matrices(clip, {"pacl": method}, {"": scenes}, measured, protocol, batch_size=16)
            point = "default" if protocol == native else f"{group}_{len(rows)}"
            row = {"group": group, "point": point, "setting": setting, "seed": 0}
            rows.append(row | {name: mean_iou(of_method["pacl"]) for name, of_method in confmats.items()})
    return pd.DataFrame(rows)
