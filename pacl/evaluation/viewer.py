"""The scenes that the report shows: heat maps and label maps of a few, and the data of its viewer (paper, section 4:
qualitative results).
"""

import base64
import io
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pacl.clip.frozen import FrozenCLIP
from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.benchmark import IGNORE, Benchmark, phrases_of
from pacl.data.images import Masks
from pacl.data.prepared import ImageSet
from pacl.data.prompts import templates
from pacl.runtime.files import write_json
from pacl.runtime.params import Protocol
from pacl.segment import Method, Methods, benchmark_texts, dense_logits, segment

PICTURE_SIDE = 320  # pixels of the longer side of a scene, at most
HEAT_SIDE = 32  # of a heat map: near the grid of tokens; the browser smooths it
LEVELS = 64  # of a heat map's colours
OUTSIDE = (18, 18, 24)  # colour over the pixels that a mask leaves out
SMALLEST = 0.01  # share of a scene's pixels above which its class is a prompt

Shown = tuple[dict, dict[str, np.ndarray]]  # what shown.json says of a figure, and its arrays in shown.npz


def examples(masks: Masks, count: int, labels: int = 3) -> list[int]:
    """The first `count` scenes with at least `labels` different labels: in their order, not picked."""
    rich = (i for i in range(len(masks)) if len(np.unique(masks[i])) >= labels)
    return list(islice(rich, count))


def prompt_maps(
    clip: FrozenCLIP, methods: Methods, scenes: ImageSet, benchmark: Benchmark, protocol: Protocol, count: int
) -> Shown:
    """The cosine of every pixel with the largest class of its scene, of the first `count` scenes: "heat/METHOD/i",
    float16 [H, W].
    """
    shown, protocol = examples(scenes.masks, count), benchmark.settings(protocol)
    targets = [benchmark.target(scenes.masks[i]).ravel() for i in shown]
    prompts = [benchmark.names[np.bincount(target, minlength=256)[:IGNORE].argmax()] for target in targets]
    texts = class_texts(clip, prompts, templates(protocol.templates)).features
    maps = {
        f"heat/{name}/{place}": dense_logits(clip, method, scenes.images[i], texts[[place]], protocol)[0]
        for name, method in methods.items()
        for place, i in enumerate(shown)
    }
    about = {"benchmark": benchmark.name, "scenes": shown, "prompts": prompts}
    return about, {key: values.half().cpu().numpy() for key, values in maps.items()}


def label_examples(
    clip: FrozenCLIP, methods: Methods, scenes: ImageSet, benchmark: Benchmark, protocol: Protocol, count: int
) -> Shown:
    """Label maps of the first `count` scenes, uint8 [H, W]: the "truth/i" and "METHOD/i"."""
    shown, texts = examples(scenes.masks, count), benchmark_texts(clip, benchmark, protocol)
    maps = {f"truth/{place}": benchmark.target(scenes.masks[i]) for place, i in enumerate(shown)}
    for name, method in methods.items():
        for place, i in enumerate(shown):
            labels = segment(clip, method, scenes.images[i], texts, benchmark.settings(protocol))
            maps[f"{name}/{place}"] = labels.cpu().numpy().astype(np.uint8)
    return {"benchmark": benchmark.name, "scenes": shown, "classes": benchmark.names}, maps


def write_shown(folder: Path, heat: Shown, labels: Shown) -> None:
    """Writes what `prompt_maps` and `label_examples` give: shown.json, {"heat", "labels"}, and shown.npz."""
    write_json(folder / "shown.json", {"heat": heat[0], "labels": labels[0]})
    np.savez_compressed(folder / "shown.npz", **heat[1], **labels[1])


def write_viewer(
    path: Path,
    clip: FrozenCLIP,
    methods: Methods,
    scenes: ImageSet,
    benchmark: Benchmark,
    protocol: Protocol,
    *,
    count: int = 12,
    present: int = 4,
) -> None:
    """Writes viewer.json: the first `count` scenes with three labels or more; of each, its `present` largest classes
    and one class that it lacks.

    A heat map is the cosine of every pixel with a prompt, coloured from the lowest to the highest value that the method
    has with the scene's prompts; a mask, the pixels that get the prompt among all classes.
    """
    protocol = benchmark.settings(protocol)
    names, texts = benchmark.texts(protocol), benchmark_texts(clip, benchmark, protocol)
    unlisted = len(benchmark.classes) - len(names)  # 1 where the background is a class without a text, else 0
    made = []
    for i in examples(scenes.masks, count):
        target = benchmark.target(scenes.masks[i]).astype(int)
        target = np.where(target == IGNORE, -1, target - unlisted)  # -1: no prompt
        shown = prompts_of(target, len(names), present, len(made))
        entries = {
            name: scene_entry(clip, method, scenes.images[i], target, shown, texts, unlisted, protocol)
            for name, method in methods.items()
        }
        prompts = [
            {
                "name": phrases_of(names[k])[0],
                "present": bool((target == k).any()),
                "truth": mask_png(target == k),
                "methods": {method: entry[place] for method, entry in entries.items()},
            }
            for place, k in enumerate(shown)
        ]
        made.append({"image": jpeg(scenes.images[i]), "prompts": prompts})
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
    clip: FrozenCLIP,
    method: Method,
    image: Image.Image,
    target: np.ndarray,
    shown: list[int],
    texts: ClassTexts,
    unlisted: int,
    protocol: Protocol,
) -> list[dict]:
    """What one method finds in a scene, for each prompt: heat map, its lowest and highest cosine, mask, IoU."""
    first = texts.first_phrases()  # which stands for its class
    features = texts.features[[first[k] for k in shown]]
    maps = dense_logits(clip, method, image, features, protocol).cpu()  # [prompts, H, W]
    labels = segment(clip, method, image, texts, protocol).cpu().numpy() - unlisted
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
    scale = min(1.0, HEAT_SIDE / max(values.shape))
    size = [max(1, round(side * scale)) for side in values.shape]
    small = F.interpolate(values[None, None].float(), size=size, mode="area")[0, 0]
    levels = ((small - low) / max(high - low, 1e-6) * (LEVELS - 1)).round().clamp(0, LEVELS - 1)
    image = Image.fromarray(levels.to(torch.uint8).numpy())
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    image.putpalette(colours.ravel().tolist())
    return encoded(image, "PNG", optimize=True)


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
