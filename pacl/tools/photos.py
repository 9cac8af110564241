"""Segments any folder of photos by any prompts: what the paper's method is for (section 4, without ground truth)."""

import csv
import errno
import math
import os
import shutil
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pacl.checkpoints import load_embedder
from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.images import open_image
from pacl.runtime.params import Protocol
from pacl.segment import Method, segment
from pacl.tools.overlay import THUMBNAIL_SIDE, blend, colours_of, overlay

TYPES = (".jpg", ".jpeg", ".png", ".webp")
WRITTEN = {"masks", "overlays", "areas.csv"}
AREAS = ["image", "prompt", "share", "model"]  # the columns of areas.csv
MOST_PROMPTS = 255  # a mask holds one byte a pixel, 0 being background


def find_photos(images: str | Path) -> list[Path]:
    """The photos in a folder, by name (or the one photo named). Raises FileNotFoundError where there is none, and
    ValueError for what is no path.
    """
    if not isinstance(images, str | Path):
        raise ValueError(f"images is {images!r}: give one folder, or one photo, as a text.")
    folder = Path(images)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give images=... the folder that holds your photos.")
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in TYPES and not p.name.startswith("."))
    if not photos:
        raise FileNotFoundError(f"{folder} holds no photo ({', '.join(TYPES)}): give images=... another folder.")
    return photos


def output_beside(images: str | Path) -> Path:
    """Where to write if nothing else is said: the folder's (or photo's) name with _segmented."""
    path = Path(images).absolute()
    return path.with_name(f"{path.stem if path.is_file() else path.name}_segmented")


def split_prompts(prompts: str | list | None) -> list[str]:
    """The prompts of a text (separated by commas) or a list, once each. Raises ValueError for none and for too many."""
    given = str("" if prompts is None else prompts).strip()
    given = given[1:-1] if given[:1] + given[-1:] == "[]" else given  # prompts=[cat,sofa] on the command line
    parts = prompts if isinstance(prompts, (list, tuple)) else given.split(",")
    found = list(dict.fromkeys(text for part in parts if (text := str(part).strip())))
    if not found:
        raise ValueError('There is no prompt: name what to look for, as in prompts="cat,sofa,wall".')
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"There are {len(found)} prompts, but a mask can hold {MOST_PROMPTS}: give fewer.")
    return found


def embedding(clip: FrozenCLIP, name: str, pretrained: str, checkpoint: str | Path | None) -> tuple[Method, str]:
    """What brings patch tokens to the text's space, and a sentence saying what it is.

    checkpoint: an embedder's path without suffix; None for CLIP's own projection.
    Raises FileNotFoundError where there is no checkpoint, ValueError for a torn one and for one of another CLIP.
    """
    weights = "random weights, nothing learned" if clip.random_weights else f"weights {pretrained}"
    if checkpoint is None:
        return Method(clip.project, clip.last_block), f"CLIP's own projection, no PACL embedder; {name}, {weights}"
    embedder, _ = load_embedder(Path(checkpoint), clip)
    method = Method(embedder.to(clip.device), clip.last_block, embedder.text_embedder)
    return method, f"PACL embedder {checkpoint}; {name}, {weights}"


def segment_photos(
    clip: FrozenCLIP,
    method: Method,
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
    Raises ValueError where no photo can be read, where `output` holds other files, and for settings that don't suit.
    """
    output = Path(output)
    check_settings(short_side, background)
    check_output(output)
    clip.grid(clip.image_size, clip.image_size, token_stride)
    text = class_text_features(clip, prompts, templates)[0]
    protocol = photo_protocol(clip, token_stride, background)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    areas, skipped, small = [], {}, {}
    try:
        (unfinished / "masks").mkdir(parents=True)
        for photo in tqdm(photos, desc="photos", mininterval=5):
            try:
                check_name(unfinished / "masks", photo.name)
                image = open_image(photo)
            except (ValueError, FileNotFoundError) as error:
                skipped[printable(photo.name)] = str(error)
                continue
            mask = label(clip, method, image, text, protocol, short_side)
            areas += shares(photo.name, mask, prompts, model, background is not None)
            small[photo.name] = blend(image, mask, len(prompts), THUMBNAIL_SIDE)
            save_png(unfinished / "masks", photo.name, with_palette(mask, len(prompts)))
            save_png(
                unfinished / "overlays", photo.name, overlay(image, mask, prompts, model, warn=clip.random_weights)
            )
        if not small:
            raise ValueError(f"None of the {len(photos)} photos can be read: {' '.join([*skipped.values()][:3])}")
        write_areas(unfinished / "areas.csv", areas)
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return areas, skipped, small


def check_settings(short_side: int, background: float | None) -> None:
    """Raises ValueError for a side that is no whole number from 1 on, and for what is no probability."""
    if isinstance(short_side, bool) or not isinstance(short_side, Integral) or short_side < 1:
        raise ValueError(f"short_side is {short_side!r}: give a whole number of pixels, at least 1.")
    if background is None:
        return
    if isinstance(background, bool) or not isinstance(background, Real) or not 0 <= background <= 1:
        raise ValueError(f"background is {background!r}: give a probability between 0 and 1, or None.")


def check_name(folder: Path, photo: str) -> None:
    """Raises ValueError for a photo whose name can't be written in the table, or as a mask's in this folder."""
    if printable(photo) != photo:
        raise ValueError(f"{printable(photo)} has a name that is no UTF-8: rename it.")
    try:
        os.lstat(folder / f"{photo}.png")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"{photo} has too long a name to be a mask's with .png added: shorten it.") from None


def printable(name: str) -> str:
    """The name with what UTF-8 can't hold, bytes of another encoding, escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def check_output(output: Path) -> None:
    """Raises ValueError for a folder that holds something else than an earlier output, which will be replaced."""
    free = not os.path.lexists(output) or output.is_dir() and not any(output.iterdir())
    if not free and not is_earlier_output(output):
        raise ValueError(f"{output} holds other files: give output=... a new or empty folder.")


def is_earlier_output(folder: Path) -> bool:
    """Whether it holds areas.csv, with masks and overlays of exactly the photos named there, and nothing else."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != WRITTEN:
        return False
    try:
        with (folder / "areas.csv").open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            files = {f"{row['image']}.png" for row in table}
        held = [{path.name for path in (folder / name).iterdir()} for name in ("masks", "overlays")]
    except (OSError, ValueError, csv.Error, KeyError):
        return False
    return table.fieldnames == AREAS and held == [files, files]


def photo_protocol(clip: FrozenCLIP, token_stride: int | None, background: float | None) -> Protocol:
    """The whole photo at once, or in windows for a CLIP that takes one size only."""
    window = {"window": clip.image_size, "window_stride": math.ceil(clip.image_size / 2)} if clip.is_timm else {}
    rule = {} if background is None else {"background_rule": "probability", "background_threshold": float(background)}
    return Protocol(token_stride=token_stride, logit_scale=clip.logit_scale, **window, **rule)


def label(clip, method: Method, image: Image.Image, text: Tensor, protocol: Protocol, short_side: int) -> np.ndarray:
    """uint8 [H, W]: 0 for background, k for the k-th prompt."""
    limited = protocol.model_copy(update={"short_side": min(short_side, *image.size)})
    labels = segment(clip, method, image, text, limited).to(torch.uint8).cpu().numpy()
    return labels + (protocol.background_rule == "none")


def shares(name: str, mask: np.ndarray, prompts: list[str], model: str, with_background: bool) -> list[dict]:
    """Each prompt's share of a photo's pixels, one row a prompt."""
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1) / mask.size
    rows = zip(["background", *prompts], share.tolist(), strict=True)
    rows = [{"image": name, "prompt": prompt, "share": round(part, 6), "model": model} for prompt, part in rows]
    return rows if with_background else rows[1:]


def write_areas(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, AREAS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def with_palette(mask: np.ndarray, prompts: int) -> Image.Image:
    """An indexed image: its values are the labels, its palette has their colours."""
    image = Image.fromarray(mask)
    image.putpalette(colours_of(prompts).ravel().tolist())
    return image


def save_png(folder: Path, photo: str, image: Image.Image) -> None:
    """folder/PHOTO.png, the photo's own suffix kept: a.jpg and a.png don't meet."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{photo}.png")
