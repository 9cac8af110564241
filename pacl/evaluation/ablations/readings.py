"""What changes when one trained model is read in other ways: token stride, prompt templates, background rule (paper,
section 4 and appendix). Nothing is trained: one run a setting.
"""

from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.benchmark import background_listed, foreground, target_of
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.ablations.findings import STRAW_MAN
from pacl.evaluation.segmentation import equal_sizes, segmentation_of_sets
from pacl.label_maps import label_maps
from pacl.metrics import confusion_matrix, mean_iou
from pacl.runtime.params import Protocol
from pacl.runtime.processes import in_parts
from pacl.segment import Method, coarse_logits

TEMPLATES = {"plain": "the name alone", "one": "one", "seven": "seven (the paper)", "imagenet80": "80 (ImageNet's)"}
RULES = {
    "entropy above 1.5 nats (the paper)": ("entropy", 1.5),
    "entropy above 1.0 nats": ("entropy", 1.0),
    "probability below 0.5 (TCL's)": ("probability", 0.5),
    "probability below 0.1 (SCLIP's)": ("probability", 0.1),
    STRAW_MAN: ("none", 0.0),  # needs no scale
}
SCALES = (2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 65.0, 100.0)  # logit scales that a rule is tried with
TITLES = {
    "stride": "Token stride at inference, in one joint pass or in shifted passes",
    "prompts": "Templates of class names at inference",
    "background": "Background rule, each at its best logit scale on voc21",
}


def settings_of(
    native: Protocol, strides: list[int], patch_size: int, scales: dict[str, float] | None = None
) -> dict[str, dict[str, Protocol]]:
    """group -> what a figure calls a setting -> the native protocol with that change.

    scales: the logit scales of the background rules; native's where there is none.
    """
    change = native.model_copy
    passes = [(s, p) for s in strides for p in ("joint", "shifted") if s < patch_size or p == "joint"]
    return {
        "stride": {
            f"{s} pixels" + (f", {p}" if s < patch_size else ""): change(update={"token_stride": s, "passes": p})
            for s, p in passes
        },
        "prompts": {setting: change(update={"templates": name}) for name, setting in TEMPLATES.items()},
        "background": {
            setting: change(
                update={
                    "background_rule": rule,
                    "background_threshold": threshold,
                    "logit_scale": (scales or {}).get(setting, native.logit_scale),
                }
            )
            for setting, (rule, threshold) in RULES.items()
        },
    }


def scale_table(
    clip: FrozenCLIP, methods: dict[str, Method], image_sets: dict, protocols: dict[str, Protocol], count: int
) -> pd.DataFrame:
    """mIoU on voc21 of each protocol and method with each of SCALES as logit scale, on the first `count` scenes:
    columns protocol, method, logit_scale, voc21. A background rule's threshold means nothing without a scale: both are
    to be chosen together, on validation scenes. Empty where no image set has voc21 (pacl.data.prepared.all_scenes).
    """
    rows = []
    for images, masks, benchmarks in image_sets.values():
        for name, protocol in protocols.items() if "voc21" in benchmarks else ():
            some = (one.some(range(count)) for one in (images, masks))
            confmats = confmats_of_scales(clip, methods, *some, benchmarks["voc21"], protocol)
            rows += [(name, *method_and_scale, mean_iou(confmat)) for method_and_scale, confmat in confmats.items()]
    return pd.DataFrame(rows, columns=["protocol", "method", "logit_scale", "voc21"])


def best_scales(table: pd.DataFrame) -> dict[str, float]:
    """protocol -> the logit scale with its highest mIoU in a `scale_table` of one method."""
    return table.loc[table.groupby("protocol").voc21.idxmax()].set_index("protocol").logit_scale.to_dict()


def confmats_of_scales(clip, methods, images, masks, benchmark: dict, protocol: Protocol) -> dict[tuple, Tensor]:
    """Confusion matrices of one benchmark by method and logit scale, a method's all of the same cosines."""
    text, index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    options = {"phrase_index": index, "background_listed": background_listed(benchmark, protocol)}

    def measured(part: range) -> dict[tuple, Tensor]:
        found = dict.fromkeys(product(methods, SCALES), 0)
        for picture, mask in equal_sizes(images.some(part), masks.some(part), 16):
            target = torch.from_numpy(np.stack([target_of(m, benchmark["table"]) for m in mask]))
            logits, *matrices = coarse_logits(clip, methods, picture, text, protocol)
            for method, scale in found:
                scaled = protocol.model_copy(update={"logit_scale": scale})
                preds = label_maps(logits[method], *matrices, scaled, **options).cpu()
                found[method, scale] += confusion_matrix(preds, target, len(benchmark["classes"]))
        return found

    parts = in_parts(measured, len(images), 16)
    return {key: sum(part[key] for part in parts) for key in product(methods, SCALES)}


def inference_table(
    clip: FrozenCLIP,
    method: Method,
    scenes: tuple[Images, Masks, dict],
    native: Protocol,
    settings,
    scales: dict[str, float],
) -> pd.DataFrame:
    """mIoU of one trained model, read in several ways, on the first `inference_scenes` test scenes: columns group,
    point, setting, seed, and benchmarks (voc20 and context59; for the background rule voc21).

    settings: the `ablations` section. scales: see `settings_of`.
    """
    images, masks, benchmarks = scenes
    images, masks = (one.some(range(settings.inference_scenes)) for one in (images, masks))
    rows = []
    for group, changes in settings_of(native, settings.strides, clip.patch_size, scales).items():
        wanted = ("voc21",) if group == "background" else ("voc20", "context59")
        measured = {name: benchmarks[name] for name in wanted if name in benchmarks}
        for setting, protocol in changes.items():
            image_set = {"": (images, masks, measured)}
            confmats = segmentation_of_sets(clip, {"pacl": method}, image_set, list(measured), protocol, batch_size=16)
            point = "default" if protocol == native else f"{group}_{len(rows)}"
            row = {"group": group, "point": point, "setting": setting, "seed": 0}
            rows.append(row | {name: mean_iou(of_method["pacl"]) for name, of_method in confmats.items()})
    return pd.DataFrame(rows)
