"""The mini world's scenes with exact masks and its classification sets, in place of the paper's data (section 4)."""

from concurrent.futures import Executor
from functools import cache, partial

import numpy as np
from PIL import Image, ImageFilter

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.sources.miniworld import textures
from pacl.sources.miniworld.captions import caption
from pacl.sources.miniworld.things import ODD, ODD_COLOURS, line_drawing, multiplied, things

SIDE = 128  # pixels of a rendered scene; masks have the same size
VIEW = 64  # pixels of a training image: what the mini CLIP sees
SPLITS = ("train", "validation", "test", "pretrain")  # each draws from its own seed
SETS = (
    *("clean", "small", "large", "rotated", "occluded", "cluttered"),
    *("noisy", "blurred", "low_resolution", "greyscale", "outline", "textures"),
)
BENCHMARKS = ("voc20", "voc21", "context59", "coco_stuff", "ade20k")
SHADE = [round(0.4 * alpha) for alpha in range(256)]  # a sprite's opacity -> its shadow's


@cache
def fine_labels() -> tuple:
    """The labels of a mask, the finest ones: (thing, kind) for each thing's two kinds and ODD, then (texture, None)."""
    kinds = [(thing, kind) for thing, drawing in things().items() for kind in (*drawing["kinds"], ODD)]
    return tuple(kinds) + tuple((name, None) for name in textures.NAMES)


def benchmark_classes(benchmark: str) -> list[str]:
    """The class names of a benchmark, in label order."""
    names = list(things())
    kinds = [kind for drawing in things().values() for kind in drawing["kinds"]]
    return {
        "voc20": names,
        "voc21": ["background", *names],
        "context59": [*names, *textures.GROUPS],
        "coco_stuff": [*names, *textures.NAMES],
        "ade20k": [*kinds, *textures.NAMES],
    }[benchmark]


def benchmark(name: str) -> Benchmark:
    """A benchmark of the mini world.

    voc20 ignores all stuff, voc21 calls it background, context59 has the texture groups, coco_stuff every texture, and
    ade20k also distinguishes a thing's kinds (and ignores a thing in an odd colour).
    """
    classes = benchmark_classes(name)
    index = {one: i for i, one in enumerate(classes)}
    group = {texture: g for g, names in textures.GROUPS.items() for texture in names}
    table = [IGNORE] * 256
    for label, (thing, kind) in enumerate(fine_labels()):
        choices = (kind, thing, group.get(thing)) if name == "ade20k" else (thing, group.get(thing))
        table[label] = next((index[c] for c in choices if c in index), 0 if name == "voc21" else IGNORE)
    stuff = {"background", *textures.GROUPS, *textures.NAMES}
    return Benchmark(name, tuple(classes), tuple(table), things=tuple(one for one in classes if one not in stuff))


def scene(rng: np.random.Generator, *, count: int | None = None) -> dict:
    """One scene: {"image": uint8 [SIDE, SIDE, 3], "mask": uint8 [SIDE, SIDE] of fine labels, "things": [(thing, kind,
    side)], "stuff": [names]}; count: number of things, 0 to 4, drawn if None.
    """
    image, mask, stuff = backdrop(rng)
    count = rng.choice(5, p=[0.03, 0.37, 0.32, 0.2, 0.08]) if count is None else count
    low, high = (0.42, 0.8) if count == 1 else (0.36, 0.58) if count == 2 else (0.3, 0.46)
    placed = []
    for _ in range(count):
        place(rng, placed, rng.uniform(low, high))
    for box in sorted(placed, key=lambda box: box[1] + box[2] / 2):
        name, kind = draw_kind(rng)
        sheet = multiplied(name, kind, variant_of(rng, kind))
        paste(image, mask, sheet, box, rng.uniform(-15, 15), label_of(name, kind))
        box.append((name, kind, box[2] / SIDE))
    return {"image": np.asarray(image), "mask": mask, "things": [box[3] for box in placed], "stuff": stuff}


def draw_kind(rng) -> tuple[str, str]:
    name = list(things())[rng.integers(len(things()))]
    kinds = list(things()[name]["kinds"])
    return name, ODD if rng.random() < 0.15 else kinds[int(rng.random() < 0.4)]


def label_of(name: str, kind: str | None) -> int:
    return fine_labels().index((name, kind))


def backdrop(rng) -> tuple[Image.Image, np.ndarray, list[str]]:
    """(image, mask, names): one texture, two with a wavy horizon between them, or a round patch of one on another."""
    kind = rng.choice(["whole", "horizon", "patch"], p=[0.35, 0.45, 0.2])
    upper, lower = pick(rng, ("top", "any")), pick(rng, ("bottom", "any"))
    if kind == "whole":
        upper = lower = pick(rng, ("top", "bottom", "any"))
    y, x = np.ogrid[:SIDE, :SIDE]
    if kind == "patch":
        across, down = (x - rng.uniform(30, 98)) / rng.uniform(34, 60), (y - rng.uniform(70, 105)) / rng.uniform(24, 42)
        inside = across**2 + down**2 < 1
    else:
        height, swing = SIDE * rng.uniform(0.35, 0.65), rng.uniform(0, 7)
        inside = y > height + swing * np.sin(x / rng.uniform(8, 24) + rng.uniform(0, 6))
    below, above = (Image.fromarray(textures.texture(name, rng, SIDE)) for name in (lower, upper))
    above.paste(below, mask=Image.fromarray(inside))
    mask = np.where(inside, np.uint8(label_of(lower, None)), np.uint8(label_of(upper, None)))
    return above, mask, list(dict.fromkeys([upper, lower]))


def pick(rng, sides: tuple) -> str:
    names = [name for name in textures.NAMES if textures.SIDE[name] in sides]
    return names[rng.integers(len(names))]


def place(rng, placed: list, size: float) -> None:
    """Appends the square [x, y, side] in pixels, centre and side, that overlaps the others least, of twelve tries."""
    side = size * SIDE
    spots = [
        [*rng.uniform(side * 0.46, SIDE - side * 0.46, 2), side] if side < SIDE else [SIDE / 2, SIDE / 2, side]
        for _ in range(12)
    ]
    placed.append(min(spots, key=lambda spot: sum(overlap(spot, other) for other in placed)))


def overlap(a, b) -> float:
    """The area that two squares share, in pixels."""
    width, height = ((a[2] + b[2]) / 2 - abs(a[i] - b[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def paste(image: Image.Image, mask: np.ndarray, sheet: Image.Image, box, degrees: float, label: int) -> None:
    """Draws a sprite of mode "RGBa" with a soft shadow into the image, and its label into the mask, both in place."""
    side = max(round(box[2]), 4)
    sheet = sheet.resize((side, side), Image.BILINEAR, reducing_gap=2.0).convert("RGBA")
    sheet = sheet.rotate(degrees, Image.BILINEAR, expand=True)
    left, top = round(box[0] - sheet.width / 2), round(box[1] - sheet.height / 2)
    alpha = sheet.getchannel("A")
    image.paste((20, 16, 30), (left + 2, top + 4), alpha.filter(ImageFilter.BoxBlur(2)).point(SHADE))
    image.paste(sheet, (left, top), alpha)
    stencil = Image.new("L", (SIDE, SIDE))
    stencil.paste(alpha, (left, top))
    mask[np.asarray(stencil) > 127] = label


def small_view(image: np.ndarray) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3] -> [VIEW, VIEW, 3], each pixel the mean of a block."""
    step = SIDE // VIEW
    total = sum(image[i::step, j::step].astype(np.uint16) for i in range(step) for j in range(step))
    return ((total + step * step // 2) // (step * step)).astype(np.uint8)


def rng_of(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index])


def pair(index: int, *, seed: int, split: str) -> tuple[np.ndarray, str]:
    """Training pair `index` of a split: (uint8 [VIEW, VIEW, 3], caption)."""
    rng = rng_of(seed, split, index)
    made = scene(rng)
    return small_view(made["image"]), caption(rng, made["things"], made["stuff"])


def labelled_scene(index: int, *, seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Evaluation scene `index`: (uint8 [SIDE, SIDE, 3], uint8 [SIDE, SIDE] of fine labels)."""
    made = scene(rng_of(seed, split, index))
    return made["image"], made["mask"]


def render(pool: Executor, function, count: int, **settings) -> tuple:
    """Runs function(index, **settings) for each index < count in the pool. For each item of its result, returns the
    stack [count, ...] or list of all.
    """
    results = zip(*pool.map(partial(function, **settings), range(count), chunksize=50), strict=True)
    return tuple(np.stack(items) if isinstance(items[0], np.ndarray) else list(items) for items in results)


def set_classes(set_name: str) -> list[str]:
    """The class names of a classification set: textures for "textures", things for all others."""
    return list(textures.NAMES) if set_name == "textures" else list(things())


def classification_image(index: int, *, seed: int, split: str, set_name: str) -> tuple[np.ndarray, int]:
    """Image `index` of a classification set: (uint8 [VIEW, VIEW, 3], class index). All sets but "textures" show one
    main thing, each with one difficulty.
    """
    # 1 + the set's number, because NumPy ignores zeros at the end of a seed.
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 1 + SETS.index(set_name)])
    if set_name == "textures":
        name = textures.NAMES[rng.integers(len(textures.NAMES))]
        return small_view(textures.texture(name, rng, SIDE)), textures.NAMES.index(name)
    image, mask, _ = backdrop(rng)
    name, kind = draw_kind(rng)
    low, high = {"small": (0.2, 0.3), "large": (0.9, 1.25), "cluttered": (0.42, 0.52)}.get(set_name, (0.45, 0.75))
    placed = []
    place(rng, placed, rng.uniform(low, high))
    for _ in range(3 if set_name == "cluttered" else 0):
        place(rng, placed, rng.uniform(0.2, 0.3))
    for box in placed[1:]:
        other = draw_kind(rng)
        sheet = multiplied(*other, variant_of(rng, other[1]))
        paste(image, mask, sheet, box, rng.uniform(-15, 15), label_of(*other))
    degrees = rng.uniform(60, 300) if set_name == "rotated" else rng.uniform(-15, 15)
    variant = variant_of(rng, kind)
    drawn = line_drawing if set_name == "outline" else multiplied
    paste(image, mask, drawn(name, kind, variant), placed[0], degrees, label_of(name, kind))
    return small_view(spoiled(rng, image, set_name, placed[0])), list(things()).index(name)


def variant_of(rng, kind: str) -> int:
    return int(rng.integers(ODD_COLOURS)) if kind == ODD else 0


def spoiled(rng, image: Image.Image, set_name: str, box) -> np.ndarray:
    """The image with the difficulty of its set applied."""
    if set_name == "occluded":
        bar = textures.texture(pick(rng, ("top", "bottom", "any")), rng, SIDE)
        width, across = int(box[2] * 0.42), rng.random() < 0.5
        middle = (box[1] if across else box[0]) + rng.uniform(-0.15, 0.15) * box[2]
        start = int(np.clip(middle - width / 2, 0, SIDE - width))
        pixels = np.array(image)
        where = np.s_[start : start + width] if across else np.s_[:, start : start + width]
        pixels[where] = bar[where]
        return pixels
    if set_name == "noisy":
        noisy = np.asarray(image) + rng.normal(0, 60, (SIDE, SIDE, 1)) + rng.normal(0, 30, (SIDE, SIDE, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)
    if set_name == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(4))
    if set_name == "low_resolution":
        image = image.resize((16, 16), Image.BOX).resize((SIDE, SIDE), Image.NEAREST)
    if set_name == "greyscale":
        image = image.convert("L").convert("RGB")
    return np.asarray(image)
