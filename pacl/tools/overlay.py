"""Draws label maps over their photos, with a legend of what was found and by which model (paper, section 4)."""

import textwrap
from functools import cache
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont

from pacl.figures.scenes import palette

OVERLAY_SIDE = 1600  # pixels of an overlay's longer side, at most
THUMBNAIL_SIDE = 480
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
GREY, RED = (90, 90, 90), (190, 30, 45)  # the model's sentence; red if its weights are random


def colours_of(prompts: int) -> np.ndarray:
    """One colour per label, the background's first, uint8 [1 + prompts, 3]."""
    return np.vstack([np.zeros((1, 3)), 255 * palette(prompts)]).round().astype(np.uint8)


def blend(image: Image.Image, mask: np.ndarray, prompts: int, side: int, share: float = 0.55) -> Image.Image:
    """The photo, at most `side` pixels long, tinted by its labels' colours, of which it takes a share; the background
    stays as it is.
    """
    image = image.copy()
    image.thumbnail((side, side))
    labels = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    pixels = np.asarray(image).astype(np.float32)
    mixed = np.where(labels[..., None] > 0, (1 - share) * pixels + share * colours_of(prompts)[labels], pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def overlay(image: Image.Image, mask: np.ndarray, prompts: list[str], model: str, *, warn: bool) -> Image.Image:
    """The blended photo above its legend: prompts found, largest first, and the model's sentence, red with `warn`."""
    picture = blend(image, mask, len(prompts), OVERLAY_SIDE)
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1) / mask.size
    found, colours = [k for k in (-share).argsort(kind="stable") if k and share[k]], colours_of(len(prompts))
    entries = [(f"{cut(legible(prompts[k - 1], f'prompt {k}'), 30)} {share[k]:.1%}", colours[k]) for k in found]
    size = max(12, round(max(picture.size) / 55))
    below = legend(entries, legible(model, "model"), max(picture.width, 24 * size), size, RED if warn else GREY)
    canvas = Image.new("RGB", (below.width, picture.height + below.height), "white")
    canvas.paste(picture)
    canvas.paste(below, (0, picture.height))
    return canvas


def legend(entries: list[tuple[str, np.ndarray]], note: str, width: int, size: int, note_colour: tuple) -> Image.Image:
    """Rows of coloured squares with their texts, then the note; size: letter height in pixels."""
    font, line, x, y, places = ImageFont.truetype(str(FONT), size), round(1.7 * size), size, round(0.6 * size), []
    for text, colour in entries:
        needed = round(1.5 * size + font.getlength(text))
        if x > size and x + needed > width - size:
            x, y = size, y + line
        places.append((x, y, text, tuple(map(int, colour))))
        x += needed + size
    letters_a_line = int(0.95 * len(note) * (width - 2 * size) / font.getlength(note))
    notes = textwrap.wrap(note, max(12, letters_a_line))
    top = y + (line if entries else 0)
    strip = Image.new("RGB", (width, top + line * len(notes) + size // 2), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        draw.rectangle((x, y + size // 8, x + size, y + size // 8 + size), fill=colour)
        draw.text((x + 1.5 * size, y), text, "black", font)
    for row, text in enumerate(notes):
        draw.text((size, top + row * line), text, note_colour, font)
    return strip


def grid(overlays: dict[str, Image.Image], prompts: list[str], model: str, *, warn: bool):
    """Small overlays in rows under the photos' names, with the model's sentence above and a legend below."""
    columns = min(4, len(overlays))
    rows, side = -(-len(overlays) // columns), 10 / max(columns, 2)
    tallest = max(image.height / image.width for image in overlays.values())
    in_a_row = min(len(prompts), 2 + columns)  # of the legend
    height = rows * (side * min(tallest, 1.2) + 0.3) + 0.25 * (2 + len(prompts) / in_a_row)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, height), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, (name, image)) in enumerate(zip(axes.flat, overlays.items(), strict=False), 1):
        axis.imshow(image, interpolation="lanczos")
        axis.set_title(cut(legible(name, f"photo {i}"), 36), fontsize=8, fontweight="normal", parse_math=False)
    colours = colours_of(len(prompts))[1:] / 255
    labels = [cut(legible(prompt, f"prompt {k}"), 36).replace("$", r"\$") for k, prompt in enumerate(prompts, 1)]
    handles = [Patch(color=colour, label=label) for colour, label in zip(colours, labels, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=in_a_row, frameon=False, fontsize=8)
    sentence = textwrap.fill(legible(model, "model"), 40 * columns)
    figure.suptitle(sentence, fontsize=9, fontweight="normal", color=np.divide(RED if warn else GREY, 255))
    return figure


@cache
def letters() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())


def legible(text: str, otherwise: str) -> str:
    """The text, or `otherwise` if the figures' font lacks one of its letters."""
    return text if all(ord(letter) in letters() for letter in text) else otherwise


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
