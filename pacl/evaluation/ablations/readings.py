"""What changes when one trained model is read in other ways: token stride, prompt templates, background rule (paper,
section 4 and appendix). Nothing is trained: one run a setting.
"""

from itertools import product

import pandas as pd

from pacl.clip.frozen import FrozenCLIP
from pacl.evaluation.ablations.findings import STRAW_MAN
from pacl.evaluation.dense import READ_TEMPLATES, Kept, Passes, Reading, measure
from pacl.evaluation.segmentation import ImageSets
from pacl.metrics import mean_iou
from pacl.runtime.params import Ablations, Protocol
from pacl.segment import Methods

TEMPLATES = dict(zip(READ_TEMPLATES, ("the name alone", "one", "seven (the paper)", "80 (ImageNet's)"), strict=True))
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
    clip: FrozenCLIP,
    methods: Methods,
    image_sets: ImageSets,
    protocols: dict[str, tuple[Protocol, tuple[str, ...]]],
    count: int,
) -> pd.DataFrame:
    """mIoU on voc21 of each protocol and its methods with each of SCALES as logit scale, on the first `count` scenes:
    columns protocol, method, logit_scale, voc21; no rows where no image set has voc21.

    The threshold of a background rule means nothing without a scale: both must be chosen together, on validation
    scenes.
    """
    rows = []
    for scenes in (one.first(count) for one in image_sets.values() if "voc21" in one.benchmarks):
        own = {
            (name, scale): changed(protocol.on("voc21"), logit_scale=scale, per_benchmark={})
            for name, (protocol, _) in protocols.items()
            for scale in SCALES
        }
        readings = {key: Reading(scenes.benchmarks["voc21"], one, protocols[key[0]][1]) for key, one in own.items()}
        confmats = measure(Passes(clip, methods, scenes, 16), readings)
        rows += [
            (name, method, scale, mean_iou(confmats[name, scale][method]))
            for name, (_, named) in protocols.items()
            for method, scale in product(named, SCALES)
        ]
    return pd.DataFrame(rows, columns=["protocol", "method", "logit_scale", "voc21"])


def best_scales(table: pd.DataFrame) -> dict[str, float]:
    """protocol -> the logit scale with its highest mIoU in a `scale_table` of one method."""
    return table.loc[table.groupby("protocol").voc21.idxmax()].set_index("protocol").logit_scale.to_dict()


def readings_table(
    passes: Passes, kept: Kept | None, native: Protocol, settings: Ablations, scales: dict[str, float]
) -> pd.DataFrame:
    """mIoU of one trained model, PACL, read in several ways, on the test scenes that `passes` reads: columns group,
    point, setting, seed, and benchmarks (voc20 and context59; for the background rule voc21). scales: see
    `settings_of`. kept: the coarse logits of these scenes, as far as the stage segmentation left them.
    """
    benchmarks, rows = passes.scenes.benchmarks, []
    groups = settings_of(native, settings.strides, passes.clip.patch_size, scales)
    readings = {
        (group, setting, name): Reading(benchmarks[name], protocol, ("pacl",))
        for group, changes in groups.items()
        for setting, protocol in changes.items()
        for name in (("voc21",) if group == "background" else ("voc20", "context59"))
        if name in benchmarks
    }
    at_hand = {key: one for key, one in readings.items() if kept and kept.has(one)}
    confmats = measure(passes, {key: one for key, one in readings.items() if key not in at_hand})
    confmats |= measure(kept, at_hand) if kept else {}
    for group, changes in groups.items():
        for setting, protocol in changes.items():
            point = "default" if protocol == native else f"{group}_{len(rows)}"
            row = {"group": group, "point": point, "setting": setting, "seed": 0}
            found = {key[2]: confmats[key]["pacl"] for key in readings if key[:2] == (group, setting)}
            rows.append(row | {name: mean_iou(confmat) for name, confmat in found.items()})
    return pd.DataFrame(rows)
