"""The scenes that the report shows: heat maps and label maps of a few, and the data of its viewer (paper, section 4:
qualitative results).
"""

import base64
import io
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE
from pacl.data.images import Masks
from pacl.evaluation.dense import Coarse, Kept, Passes, Reading, Text
from pacl.runtime.files import write_json

PICTURE_SIDE = 320  # pixels of the longer side of a scene, at most
HEAT_SIDE = 32  # of a heat map: near the grid of tokens; the browser smooths it
LEVELS = 64  # of a heat map's colours
OUTSIDE = (18, 18, 24)  # colour over the pixels that a mask leaves out
SMALLEST = 0.01  # share of a scene's pixels above which its class is a prompt

Shown = tuple[dict, dict[str, np.ndarray]]  # what shown.json says of a figure, and its arrays in shown.npz


def examples(masks: Masks, count: int) -> list[int]:
    """The first `count` scenes with at least three labels, in their order, not picked; then, where there are too few,
    the first with two, and with one.
    """
    by_labels = {3: [], 2: [], 1: []}
    for i in range(len(masks)):
        by_labels[min(3, len(np.unique(masks[i])))].append(i)
        if len(by_labels[3]) == count:
            break
    return list(chain.from_iterable(by_labels.values()))[:count]


def coarse_of(passes: Passes | Kept, reading: Reading, count: int, prompts: Iterable[Text] = ()) -> dict[int, Coarse]:
    """The `Coarse` logits of the first `count` examples, by scene."""
    run = passes([*reading.texts, *prompts], reading.settings)
    return {i: next(run(range(i, i + 1)))[0] for i in examples(passes.scenes.masks, count)}


def prompt_maps(passes: Passes | Kept, reading: Reading, count: int) -> Shown:
    """The cosine of every pixel with the largest class of its scene, of the first `count` scenes: "heat/METHOD/i",
    float16 [h, w], with PICTURE_SIDE pixels of the longer side at most.
    """
    benchmark, masks = reading.benchmark, passes.scenes.masks
    words = [(reading.protocol.templates, name) for name in benchmark.names]
    found = coarse_of(passes, reading, count, prompts=words)
    targets = [benchmark.target(masks[i]).ravel() for i in found]
    prompts = [int(np.bincount(target, minlength=256)[:IGNORE].argmax()) for target in targets]
    maps = {
        f"heat/{method}/{place}": coarse.of(method, [words[k]]).upscaled()[0, 0]
        for method in passes.methods
        for place, (k, coarse) in enumerate(zip(prompts, found.values(), strict=True))
    }
    about = {"benchmark": benchmark.name, "scenes": [*found], "prompts": [benchmark.names[k] for k in prompts]}
    return about, {name: shrunk(one, PICTURE_SIDE).half().cpu().numpy() for name, one in maps.items()}


def label_examples(passes: Passes | Kept, reading: Reading, count: int) -> Shown:
    """Label maps of the first `count` scenes, uint8 [H, W]: the "truth/i" and "METHOD/i"."""
    benchmark, found = reading.benchmark, coarse_of(passes, reading, count)
    maps = {f"truth/{place}": benchmark.target(passes.scenes.masks[i]) for place, i in enumerate(found)}
    for method in passes.methods:
        for place, coarse in enumerate(found.values()):
            maps[f"{method}/{place}"] = reading.label_maps(coarse, method)[0].cpu().numpy().astype(np.uint8)
    return {"benchmark": benchmark.name, "scenes": [*found], "classes": benchmark.names}, maps


def write_shown(folder: Path, heat: Shown, labels: Shown) -> None:
    """Writes what `prompt_maps` and `label_examples` give: shown.json, {"heat", "labels"}, and shown.npz."""
    write_json(folder / "shown.json", {"heat": heat[0], "labels": labels[0]})
    np.savez_compressed(folder / "shown.npz", **heat[1], **labels[1])


def write_viewer(path: Path, passes: Passes | Kept, reading: Reading, *, count: int = 12, present: int = 4) -> None:
    """Writes viewer.json: the first `count` `examples`; of each, its `present` largest classes
    and one class that it lacks.

    A heat map is the cosine of every pixel with a prompt, coloured from the lowest to the highest value that the method
    has with the scene's prompts; a mask, the pixels that get the prompt among all classes.
    """
    benchmark, names = reading.benchmark, reading.phrases
    unlisted = len(benchmark.classes) - len(names)  # 1 where the background is a class without a text, else 0
    made = []
    for i, coarse in coarse_of(passes, reading, count).items():
        target = benchmark.target(passes.scenes.masks[i]).astype(int)
        target = np.where(target == IGNORE, -1, target - unlisted)  # -1: no prompt
        shown = prompts_of(target, len(names), present, len(made))
        entries = {method: scene_entry(coarse, method, target, shown, reading, unlisted) for method in passes.methods}
        prompts = [
            {
                "name": names[k][0],
                "present": bool((target == k).any()),
                "truth": mask_png(target == k),
                "methods": {method: entry[place] for method, entry in entries.items()},
            }
            for place, k in enumerate(shown)
        ]
        credit = {"credit": passes.scenes.credits[i]} if passes.scenes.credits else {}
        made.append({"image": jpeg(passes.scenes.images[i]), **credit, "prompts": prompts})
    write_json(path, {"scenes": made})


def prompts_of(target: np.ndarray, classes: int, present: int, turn: int) -> list[int]:
    """The largest classes of a scene, the smallest of them first (usually a thing), then one that it lacks: the next
    one from a place that moves with `turn`, so that scenes differ.

    target: [H, W], -1 where there is no class.
    """
    pixels = np.bincount(target[target >= 0], minlength=classes)
    largest = [k for k in np.argsort(-pixels, kind="stable")[:present].tolist() if pixels[k] > SMALLEST * target.size]
    absent = [k for k in ((7 * turn + step) % classes for step in range(classes)) if not pixels[k]]
    return [*reversed(largest), *absent[:1]]


def scene_entry(
    coarse: Coarse, method: str, target: np.ndarray, shown: list[int], reading: Reading, unlisted: int
) -> list[dict]:
    """What one method finds in a scene, for each prompt: heat map, its lowest and highest cosine, mask, IoU."""
    firsts = [(reading.protocol.templates, reading.phrases[k][0]) for k in shown]  # which stand for their classes
    maps = coarse.of(method, firsts).upscaled()[0].cpu()  # [prompts, H, W]
    labels = reading.label_maps(coarse, method)[0].cpu().numpy() - unlisted
    low, high = maps.min().item(), maps.max().item()
    return [
        {
            "heat": heat_png(values, low, high),
            "low": values.min().item(),
            "high": values.max().item(),
            "mask": mask_png(labels == k),
            "share": float((labels == k).mean()),
            "iou": overlap(labels == k, target == k),
        }
        for k, values in zip(shown, maps, strict=True)
    ]


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks, 0 where both are empty."""
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def heat_png(values: torch.Tensor, low: float, high: float) -> str:
    """A map [H, W] in inferno's colours, dark at `low` and bright at `high`, as a small indexed PNG in base64."""
    levels = ((shrunk(values, HEAT_SIDE) - low) / max(high - low, 1e-6) * (LEVELS - 1)).round().clamp(0, LEVELS - 1)
    image = Image.fromarray(levels.to(torch.uint8).numpy())
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    image.putpalette(colours.ravel().tolist())
    return encoded(image, "PNG", optimize=True)


def shrunk(values: torch.Tensor, side: int) -> torch.Tensor:
    """A map [H, W] with at most `side` pixels of its longer side, each the mean of its area."""
    scale = min(1.0, side / max(values.shape))
    size = [max(1, round(one * scale)) for one in values.shape]
    return F.interpolate(values[None, None].float(), size=size, mode="area")[0, 0]


def mask_png(mask: np.ndarray) -> str:
    """A mask [H, W] as an indexed PNG in base64 that shows the scene where it is true and darkens the rest."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.NEAREST)
    image.putpalette([*OUTSIDE, 255, 255, 255])
    return encoded(image, "PNG", optimize=True, bits=1, transparency=bytes([215, 0]))


def jpeg(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return encoded(image, "JPEG", quality=88)


def encoded(image: Image.Image, kind: str, **settings) -> str:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return base64.b64encode(file.getvalue()).decode()
