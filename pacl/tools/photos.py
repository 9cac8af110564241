"""Segments any folder of photos by any prompts: the paper's task without ground truth (section 4)."""

import csv
import errno
import math
import os
import textwrap
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from tqdm.auto import tqdm

from pacl.checkpoints import load_embedder
from pacl.clip.frozen import FrozenCLIP
from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.benchmark import phrases_of
from pacl.data.images import open_image, pictures_in
from pacl.label_maps import idle_rule
from pacl.runtime.files import new_folder
from pacl.runtime.params import Protocol
from pacl.segment import Method, segment
from pacl.sources.layouts import lines_of
from pacl.tools.overlay import THUMBNAIL_SIDE, blend, colours_of, overlay

WRITTEN = {"masks", "overlays", "areas.csv"}
AREAS = ["image", "prompt", "share", "model"]  # the columns of areas.csv
MOST_PROMPTS = 255  # a mask holds one byte a pixel, 0 being background


def find_photos(images: str | Path, *, recursive: bool = False, without: Path | None = None) -> tuple[list[Path], str]:
    """The photos in a folder, sorted by name, or the one photo named, and a sentence on what is left out of the folder,
    "" if nothing is.

    recursive: take those in folders below, too, but none in the folder `without`. Raises FileNotFoundError if there is
    none, and ValueError if `images` is not a path.
    """
    if not isinstance(images, str | Path):
        raise ValueError(f"images is {images!r}: give the path of one folder or one photo.")
    folder = Path(images)
    if folder.is_file():
        return [folder], ""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: set images=... to the folder that holds your photos.")
    photos, left_out = pictures_in(folder, recursive=recursive)
    photos = [path for path in photos if without is None or without.absolute() not in path.absolute().parents]
    if not photos:
        raise FileNotFoundError(
            f"{folder} holds no photo: set images=... to another folder, or recursive=True. {left_out}".strip()
        )
    return photos, left_out


def output_beside(images: str | Path) -> Path:
    """The default output folder: next to the folder (or photo), its name with _segmented."""
    path = Path(images).absolute()
    return path.with_name(f"{path.stem if path.is_file() else path.name}_segmented")


def split_prompts(prompts: str | list | None) -> list[str]:
    """The distinct prompts of a list, of a text or of a text file; a prompt may be several words, separated by commas.

    A text is separated by semicolons or, if it has none, by commas; in square brackets it is YAML's list. A file, which
    ends with .txt, has a prompt per line. Raises FileNotFoundError for a missing one, and ValueError for no prompt and
    for too many.
    """
    parts = prompts if isinstance(prompts, (list, tuple)) else parts_of("" if prompts is None else str(prompts).strip())
    found = list(dict.fromkeys(text for part in parts if (text := ", ".join(phrases_of(str(part))))))
    if not found:
        raise ValueError('There is no prompt: name what to look for, as in prompts="cat,sofa,wall".')
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"There are {len(found)} prompts, but a mask can hold {MOST_PROMPTS}: give fewer.")
    return found


def parts_of(prompts: str) -> list[str]:
    """The parts of a text, as `split_prompts` separates them."""
    if prompts.endswith(".txt"):
        if not Path(prompts).is_file():
            raise FileNotFoundError(
                f"{prompts} does not exist: let prompts=... name a text file with a prompt per line."
            )
        return lines_of(Path(prompts))
    if prompts[:1] + prompts[-1:] == "[]":
        with suppress(yaml.YAMLError):
            return yaml.load(prompts, yaml.BaseLoader)  # which reads `yes` and `7` as texts
    return prompts.split(";" if ";" in prompts else ",")


def check_prompts(clip: FrozenCLIP, prompts: list[str], templates: list[str]) -> str:
    """A sentence on the prompts that CLIP reads only the beginning of, "" if there are none. Raises ValueError for two
    prompts that are the same to CLIP, which knows no capitals and no more tokens than its context holds.
    """
    phrases = [(prompt, phrase) for prompt in prompts for phrase in phrases_of(prompt)]
    texts = [[template.format(phrase) for template in templates] for _, phrase in phrases]
    prompt_of, cut = {}, []
    for (prompt, _), forms in zip(phrases, texts, strict=True):
        tokens = clip.tokenizer(forms)  # [templates, context]
        first = prompt_of.setdefault(tuple(tokens.flatten().tolist()), prompt)
        if first != prompt:
            raise ValueError(
                f"CLIP reads the same in the prompts {shortened(first)!r} and {shortened(prompt)!r}, so the second "
                "gets no pixel: remove one, or change its words."
            )
        if max(len(clip.tokenizer.encode(text)) + 2 for text in forms) > tokens.shape[1]:  # 2: start and end
            cut.append(repr(shortened(prompt)))
    return f"CLIP reads only the beginning of {', '.join(dict.fromkeys(cut))}." if cut else ""


def shortened(prompt: str) -> str:
    return textwrap.shorten(prompt, 60, placeholder=" ...")


def embedding(clip: FrozenCLIP, name: str, pretrained: str, checkpoint: str | Path | None) -> tuple[Method, str]:
    """What maps patch tokens to the text embedding space, and a sentence that describes it.

    checkpoint: an embedder's path without suffix; None for CLIP's own projection.
    Raises FileNotFoundError for a missing checkpoint, ValueError for a corrupt one or one trained on another CLIP.
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
    """Writes masks/, overlays/ and areas.csv to the folder `output`, atomically.

    A mask is as large as its photo and holds the prompts' numbers, from 1. short_side: pixels to which larger photos
    are shrunk for CLIP. background: pixels whose most probable prompt is below this probability are 0, background;
    None: never. model: `embedding`'s sentence, written on every overlay and in the table.
    Returns the rows of areas.csv, the reason for each skipped photo by name, and small overlays by name.
    Raises ValueError if no photo can be read, if `output` holds other files, and for invalid settings.
    """
    output = Path(output)
    check_settings(short_side, background)
    protocol = photo_protocol(clip, token_stride, background)
    if idle := idle_rule(protocol, prompts):
        raise ValueError(f"background is {background!r}, but {idle}, or None.")
    check_output(output)
    clip.grid(clip.image_size, clip.image_size, token_stride)
    check_prompts(clip, prompts, templates)
    texts = class_texts(clip, prompts, templates)
    areas, skipped, small = [], {}, {}
    with new_folder(output) as folder:
        for kind in ("masks", "overlays"):
            (folder / kind).mkdir()
        for photo in tqdm(photos, desc="photos", mininterval=5):
            try:
                check_name(folder / "masks", photo.name)
                image = open_image(photo)
            except (ValueError, FileNotFoundError) as error:
                skipped[printable(photo.name)] = str(error)
                continue
            mask = label(clip, method, image, texts, protocol, short_side)
            areas += shares(photo.name, mask, prompts, model, background is not None)
            small[photo.name] = blend(image, mask, len(prompts), THUMBNAIL_SIDE)
            drawn = overlay(image, mask, prompts, model, warn=clip.random_weights)
            with_palette(mask, len(prompts)).save(folder / "masks" / f"{photo.name}.png")  # a.jpg and a.png differ
            drawn.save(folder / "overlays" / f"{photo.name}.png")
        if not small:
            raise ValueError(f"None of the {len(photos)} photos can be read: {' '.join([*skipped.values()][:3])}")
        pd.DataFrame(areas, columns=AREAS).to_csv(folder / "areas.csv", index=False)
    return areas, skipped, small


def check_settings(short_side: int, background: float | None) -> None:
    """Raises ValueError for a side that is not a positive integer and a background that is not a probability."""
    if isinstance(short_side, bool) or not isinstance(short_side, Integral) or short_side < 1:
        raise ValueError(f"short_side is {short_side!r}: give a whole number of pixels, at least 1.")
    if background is None:
        return
    if isinstance(background, bool) or not isinstance(background, Real) or not 0 <= background <= 1:
        raise ValueError(f"background is {background!r}: give a probability between 0 and 1, or None.")


def check_name(folder: Path, photo: str) -> None:
    """Raises ValueError for a photo whose name can't be written in the table, or used for a mask in this folder."""
    if printable(photo) != photo:
        raise ValueError(f"{printable(photo)} has a name that is not UTF-8: rename it.")
    try:
        os.lstat(folder / f"{photo}.png")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"{photo} has a name too long to add .png for its mask: shorten it.") from None


def printable(name: str) -> str:
    """The name with bytes of another encoding than UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def check_output(output: Path) -> None:
    """Raises ValueError unless the folder is new, empty, or an earlier output, which will be replaced."""
    free = not os.path.lexists(output) or output.is_dir() and not any(output.iterdir())
    if not free and not is_earlier_output(output):
        raise ValueError(f"{output} holds other files: set output=... to a new or empty folder.")


def is_earlier_output(folder: Path) -> bool:
    """Whether it holds exactly areas.csv and the masks and overlays of the photos named there."""
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
    """The whole photo at once, or in windows if CLIP takes one size only."""
    window = {"window": clip.image_size, "window_stride": math.ceil(clip.image_size / 2)} if clip.is_timm else {}
    rule = {} if background is None else {"background_rule": "probability", "background_threshold": float(background)}
    return Protocol(token_stride=token_stride, logit_scale=clip.logit_scale, **window, **rule)


def label(clip, method: Method, image: Image.Image, texts: ClassTexts, protocol: Protocol, short_side: int):
    """uint8 [H, W]: 0 for background, k for the k-th prompt, from 1."""
    limited = protocol.model_copy(update={"short_side": min(short_side, *image.size)})
    labels = segment(clip, method, image, texts, limited).to(torch.uint8).cpu().numpy()
    return labels + (protocol.background_rule == "none")


def shares(name: str, mask: np.ndarray, prompts: list[str], model: str, with_background: bool) -> list[dict]:
    """Each prompt's share of a photo's pixels, one row per prompt."""
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1) / mask.size
    rows = zip(["background", *prompts], share.tolist(), strict=True)
    rows = [{"image": name, "prompt": prompt, "share": round(part, 6), "model": model} for prompt, part in rows]
    return rows if with_background else rows[1:]


def with_palette(mask: np.ndarray, prompts: int) -> Image.Image:
    """An indexed image of the labels, in their colours."""
    image = Image.fromarray(mask)
    image.putpalette(colours_of(prompts).ravel().tolist())
    return image
