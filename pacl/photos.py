"""Segments any folder of photos by any prompts: what the paper's method is for (section 4, without ground truth)."""

import csv
import math
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm.auto import tqdm

from pacl.clip import FrozenCLIP, class_text_features
from pacl.config import Protocol
from pacl.data import open_image
from pacl.plots import palette
from pacl.segment import segment
from pacl.train import load_embedder

TYPES = (".jpg", ".jpeg", ".png", ".webp")
WRITTEN = {"masks", "overlays", "areas.csv"}
MOST_PROMPTS = 255  # a mask holds one byte a pixel, 0 being background
OVERLAY_SIDE = 1600  # pixels of an overlay's longer side, at most; masks keep the photo's size
THUMBNAIL_SIDE = 480
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
RED = (190, 30, 45)


def find_photos(images: str | Path) -> list[Path]:
    """The photos in a folder, by name (or the one photo named). Raises FileNotFoundError where there is none."""
    folder = Path(images)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give images=... the folder that holds your photos.")
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in TYPES and not p.name.startswith("."))
    if not photos:
        raise FileNotFoundError(f"{folder} holds no photo ({', '.join(TYPES)}): give images=... another folder.")
    return photos


def split_prompts(prompts: str | list | None) -> list[str]:
    """The prompts of a text (separated by commas) or a list, once each. Raises ValueError for none and for too many."""
    parts = prompts if isinstance(prompts, (list, tuple)) else str("" if prompts is None else prompts).split(",")
    found = list(dict.fromkeys(text for part in parts if (text := str(part).strip())))
    if not found:
        raise ValueError('There is no prompt: name what to look for, as in prompts="cat,sofa,wall".')
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"There are {len(found)} prompts, but a mask can hold {MOST_PROMPTS}: give fewer.")
    return found


def embedding(clip: FrozenCLIP, name: str, pretrained: str, checkpoint: str | Path | None) -> tuple[Callable[[Tensor], Tensor], str]:
    """What brings patch tokens to the text's space, and a sentence saying what it is.

    checkpoint: an embedder's path without suffix; None for CLIP's own projection. Raises ValueError for an embedder of another CLIP.
    """
    weights = "random weights, nothing learned" if clip.random_weights else f"weights {pretrained}"
    if checkpoint is None:
        return clip.project, f"CLIP's own projection, no PACL embedder; {name}, {weights}"
    embedder, _ = load_embedder(Path(checkpoint))
    if (embedder.in_dim, embedder.out_dim) != (clip.width, clip.dim):
        raise ValueError(
            f"{checkpoint} embeds tokens {embedder.in_dim} wide to {embedder.out_dim}, but those of {name} are {clip.width} and {clip.dim}: "
            "give the CLIP it was trained on."
        )
    return embedder.to(clip.device), f"PACL embedder {checkpoint}; {name}, {weights}"


def segment_photos(
    clip: FrozenCLIP,
    embed: Callable[[Tensor], Tensor],
    photos: list[Path],
    prompts: list[str],
    output: str | Path,
    *,
    templates: list[str],
    model: str,
    short_side: int = 448,
    token_stride: int | None = None,
    background: float | None = None,
) -> tuple[list[dict], dict[str, str], dict[str, Image.Image]]:
    """Writes masks/, overlays/ and areas.csv to `output`, all or nothing.

    A mask has its photo's size; its value is the number of a prompt, from 1 on. short_side: pixels that larger photos
    are shrunk to before CLIP sees them. background: the probability below which a pixel is 0, background; None: never.
    model: what `embedding` says, named on every overlay and in the table.
    Returns the rows of areas.csv, why photos were skipped, by name, and small overlays, by name.
    Raises ValueError where no photo can be read, where `output` holds other files, and for a stride that doesn't suit.
    """
    output = Path(output)
    check_output(output)
    clip.grid(clip.image_size, clip.image_size, token_stride)
    text = class_text_features(clip, [prompt.replace(",", " ") for prompt in prompts], templates)[0]
    protocol = photo_protocol(clip, token_stride, background)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    areas, skipped, small = [], {}, {}
    try:
        for folder in ("masks", "overlays"):
            (unfinished / folder).mkdir(parents=True)
        for photo in tqdm(photos, desc="photos", mininterval=5):
            try:
                image = open_image(photo)
            except ValueError as error:
                skipped[photo.name] = str(error)
                continue
            mask = label(clip, embed, image, text, protocol, short_side)
            areas += shares(photo.name, mask, prompts, model, background is not None)
            write_mask(unfinished / "masks" / f"{photo.name}.png", mask, len(prompts))
            drawn = overlay(image, mask, prompts, model, warn=clip.random_weights)
            drawn.save(unfinished / "overlays" / f"{photo.name}.png")
            small[photo.name] = blend(image, mask, len(prompts), THUMBNAIL_SIDE)
        if not small:
            raise ValueError(f"None of the {len(photos)} photos can be read: {', '.join(skipped)}.")
        write_areas(unfinished / "areas.csv", areas)
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return areas, skipped, small


def check_output(output: Path) -> None:
    """Raises ValueError for a folder that holds something else than an earlier output, which will be replaced."""
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= WRITTEN):
        raise ValueError(f"{output} holds other files: give output=... a new or empty folder.")


def photo_protocol(clip: FrozenCLIP, token_stride: int | None, background: float | None) -> Protocol:
    """The whole photo at once, or in windows for a CLIP that takes one size only."""
    window = {"window": clip.image_size, "window_stride": math.ceil(clip.image_size / 2)} if clip.is_timm else {}
    rule = {} if background is None else {"background_rule": "probability", "background_threshold": float(background)}
    return Protocol(token_stride=token_stride, logit_scale=clip.logit_scale, **window, **rule)


def label(clip, embed, image: Image.Image, text: Tensor, protocol: Protocol, short_side: int) -> np.ndarray:
    """uint8 [H, W]: 0 for background, k for the k-th prompt."""
    limited = protocol.model_copy(update={"short_side": min(short_side, *image.size)})
    labels = segment(clip, embed, image, text, limited).to(torch.uint8).cpu().numpy()
    return labels + (protocol.background_rule == "none")


def shares(name: str, mask: np.ndarray, prompts: list[str], model: str, with_background: bool) -> list[dict]:
    """Each prompt's share of a photo's pixels, one row a prompt."""
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1) / mask.size
    rows = zip(["background", *prompts], share.tolist(), strict=True)
    rows = [{"image": name, "prompt": prompt, "share": round(part, 6), "model": model} for prompt, part in rows]
    return rows if with_background else rows[1:]


def write_areas(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["image", "prompt", "share", "model"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def colours_of(prompts: int) -> np.ndarray:
    """uint8 [1 + prompts, 3], background black."""
    return np.vstack([np.zeros((1, 3)), 255 * palette(prompts)]).round().astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray, prompts: int) -> None:
    """A PNG whose values are the labels and whose palette has their colours."""
    image = Image.fromarray(mask)
    image.putpalette(colours_of(prompts).ravel().tolist())
    image.save(path, optimize=True)


def blend(image: Image.Image, mask: np.ndarray, prompts: int, side: int) -> Image.Image:
    """The photo, `side` pixels long at most, with its labels' colours over it; background keeps the photo's own."""
    image = image.copy()
    image.thumbnail((side, side))
    small = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    pixels = np.asarray(image).astype(float)
    mixed = np.where(small[..., None] > 0, 0.45 * pixels + 0.55 * colours_of(prompts)[small], pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def overlay(image: Image.Image, mask: np.ndarray, prompts: list[str], model: str, *, warn: bool) -> Image.Image:
    """The blended photo over a legend of the prompts in it, largest first, and the model's sentence, red for `warn`."""
    picture = blend(image, mask, len(prompts), OVERLAY_SIDE)
    size = max(11, round(max(picture.size) / 50))
    width = max(picture.width, 26 * size)
    font = ImageFont.truetype(str(FONT), size)
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1)[1:] / mask.size
    entries = [(f"{legible(prompts[k], f'prompt {k + 1}')} {share[k]:.0%}", k + 1) for k in np.argsort(-share, kind="stable") if share[k] > 0]
    lines = [*flow(entries, font, width, size), *((text, None) for text in wrap(legible(model, "model"), font, width - size))]
    canvas = Image.new("RGB", (width, picture.height + legend_height(lines, size)), "white")
    canvas.paste(picture, (0, 0))
    draw, colours = ImageDraw.Draw(canvas), colours_of(len(prompts))
    y = picture.height + size // 2
    for line, _ in lines if False else ():
        pass
    return canvas if draw is None else draw_legend(canvas, draw, lines, colours, font, size, y, warn)


@cache
def glyphs() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())


def legible(text: str, otherwise: str) -> str:
    """The text, or `otherwise` where the figures' font lacks one of its letters."""
    return text if all(ord(letter) in glyphs() for letter in text) else otherwise
