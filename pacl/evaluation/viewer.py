"""The data of the report's viewer: test scenes with prompts, and each method's heat map and mask of them (paper,
section 4: qualitative results).

notebooks/05_segmentation.ipynb writes them, pacl.report.page shows them.
"""

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.benchmark import IGNORE, foreground, on_benchmark, target_of
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.segmentation import examples
from pacl.runtime.files import write_json
from pacl.runtime.params import Protocol
from pacl.segment import Method, dense_logits, segment

PICTURE_SIDE = 320  # pixels of a scene's longer side, at most
HEAT_SIDE = 32  # of a heat map's: near the grid of tokens, the browser smooths it
LEVELS = 64  # of a heat map's colours
OUTSIDE = (18, 18, 24)  # colour over the pixels that a mask leaves out
SMALLEST = 0.01  # share of a scene's pixels above which its class is a prompt


def write_viewer(
    path: Path,
    clip: FrozenCLIP,
    methods: dict[str, Method],
    scenes: Images,
    masks: Masks,
    benchmark: dict,
    protocol: Protocol,
    *,
    count: int = 12,
    present: int = 4,
) -> None:
    """Writes viewer.json: the first `count` scenes with three labels or more, not picked; of each its `present` largest
    classes and one class that it doesn't hold.

    benchmark: {"classes", "table"} as pacl.data.prepared.read_scenes gives it. A heat map is a prompt's cosine at every pixel,
    coloured from the lowest to the highest value of the scene's prompts with that method; a mask, the pixels that get
    the prompt among all classes.
    """
    protocol = on_benchmark(protocol, benchmark)
    names = foreground(benchmark, protocol)
    unlisted = len(benchmark["classes"]) - len(names)  # 1 where the background is a class without a text, else 0
    text, phrase_index = class_text_features(clip, names, templates(protocol.templates))
    first = [int((phrase_index == k).nonzero()[0]) for k in range(len(names))]  # each class's first phrase
    made = []
    for i in examples(masks, count):
        target = target_of(masks[i], benchmark["table"]).astype(int)
        target = np.where(target == IGNORE, -1, target - unlisted)  # -1: no prompt
        shown = prompts_of(target, len(names), present, len(made))
        found = {
            name: answers(clip, method, scenes[i], target, shown, text, phrase_index, first, unlisted, protocol)
            for name, method in methods.items()
        }
        prompts = [
            {
                "name": names[k].split(",")[0],
                "present": bool((target == k).any()),
                "truth": mask_png(target == k),
                "methods": {method: of_method[place] for method, of_method in found.items()},
            }
            for place, k in enumerate(shown)
        ]
        made.append({"image": jpeg(scenes[i]), "prompts": prompts})
    write_json(path, {"scenes": made})


def prompts_of(target: np.ndarray, classes: int, present: int, turn: int) -> list[int]:
    """The scene's largest classes, smallest of them first (a thing, as a rule), then one that it doesn't hold: the
    next in the list from a place that moves with `turn`, so that scenes differ.

    target: [H, W], -1 where there is no class.
    """
    pixels = np.bincount(target[target >= 0], minlength=classes)
    largest = [k for k in np.argsort(-pixels, kind="stable")[:present].tolist() if pixels[k] > SMALLEST * target.size]
    absent = [k for k in ((7 * turn + step) % classes for step in range(classes)) if not pixels[k]]
    return [*reversed(largest), *absent[:1]]


def answers(
    clip,
    method: Method,
    image: Image.Image,
    target,
    shown: list[int],
    text,
    phrase_index,
    first: list[int],
    unlisted: int,
    protocol,
) -> list[dict]:
    """What one method says of a scene, a table a prompt: heat map, its lowest and highest cosine, mask, IoU."""
    maps = dense_logits(clip, method, image, text[[first[k] for k in shown]], protocol).cpu()  # [prompts, H, W]
    options = {"phrase_index": phrase_index, "background_listed": not unlisted}
    labels = segment(clip, method, image, text, protocol, **options).cpu().numpy() - unlisted
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
    """A mask [H, W] as an indexed PNG in base64 that lets the scene through where it is true and darkens the rest."""
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
