"""What changes when one trained model is read in other ways: token stride, prompt templates, background rule (paper,
section 4 and appendix). Nothing is trained: one run a setting.
"""

import pandas as pd

from pacl.clip import FrozenCLIP
from pacl.data import Images, Masks
from pacl.evaluate import segmentation_of_sets
from pacl.metrics import mean_iou
from pacl.params import Protocol
from pacl.segment import Method

TEMPLATES = {"plain": "the name alone", "one": "one", "seven": "seven (the paper)", "imagenet80": "80 (ImageNet's)"}
TITLES = {
    "stride": "Token stride at inference, in one joint pass or in shifted passes",
    "prompts": "Templates of class names at inference",
    "background": "Background rule (voc21)",
}


def settings_of(native: Protocol, strides: list[int], patch_size: int) -> dict[str, dict[str, Protocol]]:
    """group -> what a figure calls a setting -> the native protocol with that change."""
    change = native.model_copy
    passes = [(s, p) for s in strides for p in ("joint", "shifted") if s < patch_size or p == "joint"]
    return {
        "stride": {
            f"{s} pixels" + (f", {p}" if s < patch_size else ""): change(update={"token_stride": s, "passes": p})
            for s, p in passes
        },
        "prompts": {setting: change(update={"templates": name}) for name, setting in TEMPLATES.items()},
        "background": {
            "entropy above 1.5 nats (the paper)": change(
                update={"background_rule": "entropy", "background_threshold": 1.5}
            ),
            "entropy above 1.0 nats": change(update={"background_rule": "entropy", "background_threshold": 1.0}),
            "probability below 0.5 (TCL)": change(
                update={"background_rule": "probability", "background_threshold": 0.5}
            ),
            "probability below 0.1 (SCLIP)": change(
                update={"background_rule": "probability", "background_threshold": 0.1}
            ),
            "the word “background”": change(update={"background_rule": "none"}),
        },
    }


def inference_table(
    clip: FrozenCLIP, method: Method, scenes: tuple[Images, Masks, dict], native: Protocol, settings
) -> pd.DataFrame:
    """mIoU of one trained model, read in several ways, on the first `inference_scenes` test scenes: columns group,
    point, setting, seed, and benchmarks (voc20 and context59; for the background rule voc21).

    settings: the `ablations` section.
    """
    images, masks, benchmarks = scenes
    images, masks = (one.some(range(settings.inference_scenes)) for one in (images, masks))
    rows = []
    for group, changes in settings_of(native, settings.strides, clip.patch_size).items():
        wanted = ("voc21",) if group == "background" else ("voc20", "context59")
        measured = {name: benchmarks[name] for name in wanted if name in benchmarks}
        for setting, protocol in changes.items():
            image_set = {"": (images, masks, measured)}
            confmats = segmentation_of_sets(clip, {"pacl": method}, image_set, list(measured), protocol, batch_size=16)
            point = "default" if protocol == native else f"{group}_{len(rows)}"
            row = {"group": group, "point": point, "setting": setting, "seed": 0}
            rows.append(row | {name: mean_iou(of_method["pacl"]) for name, of_method in confmats.items()})
    return pd.DataFrame(rows)
