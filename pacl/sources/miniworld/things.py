"""The mini world's objects, in place of those in web photos (paper, section 4): drawings of data/miniworld/things.yaml,
rendered as sprites.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter
from scipy.ndimage import maximum_filter, minimum_filter

from pacl.runtime.config import project_yaml

SHEET = 256  # pixels a side of a drawing before it is scaled into a scene
ODD_COLOURS = 6  # how many untypical colourings each thing has
ODD = "odd"  # the kind of a thing in an untypical colour


def things() -> dict:
    """All things: name -> {"kinds": {kind name: [colour, second colour, pattern]}, "parts": [...]}, in file order."""
    return project_yaml("data/miniworld/things.yaml")


@cache
def sprite(thing: str, kind: str, variant: int = 0) -> Image.Image:
    """One thing as an RGBA sheet, SHEET pixels a side. kind: a kind's name, or ODD, whose colour `variant` chooses."""
    drawing = things()[thing]
    colour, second, pattern = odd_colouring(thing, variant) if kind == ODD else drawing["kinds"][kind]
    fills = {"body": patterned(colour, second, pattern), "second": solid(second)}
    fills |= {"dark": solid(shaded(colour, 0.72)), "light": solid(shaded(colour, 1.3))}
    sheet = Image.new("RGB", (SHEET, SHEET), shaded(colour, 0.4))
    alpha = Image.new("L", (SHEET, SHEET))
    for (_, fill, *_), mask in zip(drawing["parts"], part_masks(thing), strict=True):
        sheet.paste(fills[fill] if fill in fills else solid(fill), mask=mask)
        alpha = ImageChops.lighter(alpha, mask)
    return outlined(lit(sheet), alpha, shaded(colour, 0.4))


@cache
def multiplied(thing: str, kind: str, variant: int = 0) -> Image.Image:
    """`sprite` with its colours multiplied by its opacity, mode "RGBa", in which Pillow resizes it."""
    return sprite(thing, kind, variant).convert("RGBa")


@cache
def line_drawing(thing: str, kind: str, variant: int = 0) -> Image.Image:
    """The edges of `sprite` in ink on white paper; mode "RGBa"."""
    sheet = sprite(thing, kind, variant)
    grey, opacity = sheet.convert("L").filter(ImageFilter.MedianFilter(5)), sheet.getchannel("A")
    edges = maximum_filter(grey.filter(ImageFilter.FIND_EDGES), 5)  # in a fraction of the time of Pillow's MaxFilter
    ink = Image.fromarray(edges).point(lambda value: 255 - min(255, value * 4))
    inside = Image.fromarray(minimum_filter(opacity, 13))
    drawing = Image.composite(ink, Image.new("L", sheet.size), inside).convert("RGB")
    drawing.putalpha(opacity)
    return drawing.convert("RGBa")


def odd_colouring(thing: str, variant: int) -> list:
    """An untypical [colour, second colour, pattern], the same for equal arguments."""
    rng = np.random.default_rng([variant, *thing.encode()])
    hue = rng.integers(0, 360)
    colour, second = (
        f"hsl({(hue + turn) % 360}, {rng.integers(45, 85)}%, {rng.integers(38, 72)}%)" for turn in (0, 150)
    )
    return [colour, second, rng.choice(["plain", "stripes", "dots", "checks"])]


@cache
def part_masks(thing: str) -> list[Image.Image]:
    """The areas of a thing's parts, which all its kinds share."""
    return [part_mask(shape, numbers) for shape, _, *numbers in things()[thing]["parts"]]


def part_mask(shape: str, numbers: list) -> Image.Image:
    """The area of one part as an L image, drawn at twice the size for smooth edges; numbers: in hundredths of the sheet
    within its margin.
    """
    unit, offset = 2 * SHEET / 100 * 0.92, 0.04 * 2 * SHEET
    canvas = Image.new("L", (2 * SHEET, 2 * SHEET))
    draw = ImageDraw.Draw(canvas)
    if shape == "line":
        width, *numbers = numbers
    points = [tuple(p) for p in np.reshape(numbers, (-1, 2)) * unit + offset]
    if shape == "ellipse":
        (x, y), radius_x, radius_y = points[0], numbers[2] * unit, numbers[3] * unit
        draw.ellipse([x - radius_x, y - radius_y, x + radius_x, y + radius_y], fill=255)
    elif shape == "line":
        draw.line(points, fill=255, width=round(width * unit), joint="curve")
        half = width * unit / 2
        for x, y in points:
            draw.ellipse([x - half, y - half, x + half, y + half], fill=255)
    else:
        draw.polygon(smooth(points) if shape == "blob" else points, fill=255)
    return canvas.resize((SHEET, SHEET), Image.BOX)


def smooth(points: list, steps: int = 12) -> list:
    """A closed Catmull-Rom curve through the points."""
    p = np.array(points)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * p
        + (after - before) * t
        + (2 * before - 5 * p + 4 * after - beyond) * t**2
        + (3 * p - before - 3 * after + beyond) * t**3
    )
    return [tuple(xy) for xy in curve.transpose(1, 0, 2).reshape(-1, 2)]


def patterned(colour: str, second: str, pattern: str) -> Image.Image:
    """A sheet in two colours and a pattern."""
    return Image.composite(solid(second), solid(colour), pattern_mask(pattern))


@cache
def pattern_mask(pattern: str) -> Image.Image:
    """A mask of where a pattern has the second colour."""
    y, x = np.mgrid[:SHEET, :SHEET]
    cell = SHEET // 8
    where = {
        "plain": np.zeros((SHEET, SHEET), bool),
        "stripes": (x // (cell * 3 // 4)) % 2 == 1,
        "checks": (x // cell + y // cell) % 2 == 1,
        "dots": (x % (cell * 3 // 2) - cell * 0.75) ** 2
        + ((y + (x // (cell * 3 // 2)) % 2 * cell * 0.75) % (cell * 3 // 2) - cell * 0.75) ** 2
        < (cell * 0.42) ** 2,
    }[pattern]
    return Image.fromarray((where * 255).astype(np.uint8))


def solid(colour) -> Image.Image:
    return Image.new("RGB", (SHEET, SHEET), colour)


def shaded(colour: str, gain: float) -> tuple:
    return tuple(min(255, round(channel * gain)) for channel in ImageColor.getrgb(colour))


def lit(sheet: Image.Image) -> Image.Image:
    """The sheet in light from the upper left."""
    y, x = np.mgrid[:SHEET, :SHEET] / SHEET
    light = 1.14 - 0.16 * x - 0.22 * y
    return Image.fromarray(np.clip(np.asarray(sheet) * light[..., None], 0, 255).astype(np.uint8))


def outlined(sheet: Image.Image, alpha: Image.Image, colour: tuple) -> Image.Image:
    """The drawing with a dark rim, as in a picture book."""
    whole = Image.composite(sheet, solid(colour), alpha)
    whole.putalpha(Image.fromarray(maximum_filter(alpha, 9)))
    return whole
