"""Segments any folder of photos by any prompts: the paper's task without ground truth (section 4)."""

import errno
import json
import math
import os
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
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
from pacl.data.benchmark import is_background, phrases_of
from pacl.data.images import open_image, pictures_in
from pacl.label_maps import TokenLogits, idle_rule, label_maps
from pacl.runtime.params import Protocol
from pacl.segment import Method, token_logits
from pacl.sources.layouts import lines_of
from pacl.tools.overlay import THUMBNAIL_SIDE, blend, colours_of, overlay

KINDS = ("masks", "overlays", "similarities")  # folders of an output
PROGRESS = "progress.jsonl"  # in an unfinished output: its settings, and a line for each photo that is done
SHOWN = 12  # small overlays kept in memory
LONGEST = 4  # times its short side; longer photos are seen in windows
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
    made = {path.absolute() for path in (without, unfinished_name(without))} if without else set()
    photos = [path for path in photos if made.isdisjoint(path.absolute().parents)]
    if not photos:
        said = f"{folder} holds no photo: set images=... to another folder, or recursive=True. {left_out}"
        raise FileNotFoundError(said.strip())
    return photos, left_out


def unfinished_name(output: Path) -> Path:
    """The folder in which an output is made."""
    return output.with_name(f"{output.name}.unfinished")


def caller_path(path: object, caller: Path, *, project: bool = False) -> Path:
    """A path as its caller means it: relative to the folder `caller`, and not to the project's, which notebooks enter;
    with `project`, the project's if the caller's folder has no such file.
    """
    path = Path(str(path)).expanduser()
    own = caller / path
    return own if not project or own.exists() or Path(f"{own}.safetensors").exists() else path


def output_beside(images: str | Path) -> Path:
    """The default output folder: next to the folder (or photo), its name with _segmented."""
    path = Path(images).absolute()
    return path.with_name(f"{path.stem if path.is_file() else path.name}_segmented")


def split_prompts(prompts: str | list | None, caller: Path = Path()) -> list[str]:
    """The distinct prompts of a list, of a text or of a text file; a prompt may be several words, separated by commas.

    A text is separated by semicolons or, if it has none, by commas; in square brackets it is YAML's list. A file, in
    the folder `caller` and ending with .txt, has a prompt per line. Raises FileNotFoundError for a missing one, and
    ValueError for no prompt and for too many.
    """
    parts = prompts if isinstance(prompts, (list, tuple)) else parts_of(str(prompts or "").strip(), caller)
    found = list(dict.fromkeys(filter(None, (", ".join(phrases_of(str(part))) for part in parts))))
    if not found:
        raise ValueError('There is no prompt: name what to look for, as in prompts="cat,sofa,wall".')
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"There are {len(found)} prompts, but a mask can hold {MOST_PROMPTS}: give fewer.")
    return found


def parts_of(prompts: str, caller: Path) -> list[str]:
    """The parts of a text, as `split_prompts` separates them."""
    if prompts.endswith(".txt"):
        if not (caller / prompts).is_file():
            raise FileNotFoundError(f"{prompts} does not exist: let prompts=... name a text file, a prompt per line.")
        return lines_of(caller / prompts)
    if prompts[:1] + prompts[-1:] == "[]":
        with suppress(yaml.YAMLError):
            return yaml.load(prompts, yaml.BaseLoader)  # which reads `yes` and `7` as texts
    return prompts.split(";" if ";" in prompts else ",")


def check_prompts(clip: FrozenCLIP, prompts: list[str], templates: list[str]) -> str:
    """A sentence on the prompts that CLIP reads only the beginning of, "" if there are none. Raises ValueError for two
    prompts that are the same to CLIP, which knows no capitals and no more tokens than its context holds.
    """
    prompt_of, cut = {}, []
    for prompt, phrase in [(one, phrase) for one in prompts for phrase in phrases_of(one)]:
        forms = [template.format(phrase) for template in templates]
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


shortened = partial(textwrap.shorten, width=60, placeholder=" ...")


def embedding(clip: FrozenCLIP, name: str, pretrained: str, checkpoint: str | Path | None) -> tuple[Method, str]:
    """What maps patch tokens to the text embedding space, and a sentence that describes it.

    checkpoint: an embedder, as `load_embedder` takes it; None for CLIP's own projection.
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
    overlays: bool = True,
    similarities: bool = False,
) -> tuple[list[dict], dict[str, str], dict[str, Image.Image]]:
    """Writes masks/ and areas.csv to the folder `output`, and overlays/ and similarities/ if they are wanted. Until all
    is done they are in OUTPUT.unfinished, which the next run with the same settings resumes.

    A mask is as large as its photo and holds the prompts' numbers, from 1; similarities are float16 [prompts, H, W], of
    each pixel and prompt the cosine. Photos of several folders are called by their paths below the folder that all
    share. short_side: pixels to which larger photos are shrunk for CLIP. background: pixels whose most probable prompt
    is below this probability are 0, background; None: never. model: `embedding`'s sentence, written on every overlay
    and in the table.
    Returns the rows of areas.csv, the reason for each skipped photo by name, and the first few small overlays by name.
    Raises ValueError if no photo can be read, if `output` holds other files, and for invalid settings.
    """
    output, kinds = Path(str(output)), ("masks", *["overlays"] * overlays, *["similarities"] * similarities)
    check_settings(short_side, background, prompts)
    protocol = photo_protocol(clip, token_stride, background)
    check_output(output)
    clip.grid(clip.image_size, clip.image_size, token_stride)
    texts = prompt_texts(clip, prompts, templates, protocol)
    about = [model, prompts, templates, protocol.model_dump(), short_side, kinds, getattr(clip, "identity", None)]
    with unfinished(output, about) as (folder, done):
        areas, skipped, small = [], {}, {}
        for name, photo in tqdm(named(photos).items(), desc="photos", mininterval=5):
            try:
                check_name(folder / "masks", name)
                image = open_image(photo)
            except (ValueError, FileNotFoundError) as error:
                skipped[printable(name)] = str(error)
                continue
            version = [photo.stat().st_size, photo.stat().st_mtime_ns]
            files = {kind: folder / path for kind, path in files_of(name, kinds).items()}
            if done.get(name, [None])[0] != version:
                cosines = token_cosines(clip, method, image, texts, protocol, short_side)
                mask = labels_of(cosines, texts, protocol)
                write_photo(files, image, mask, prompts, model, warn=clip.random_weights)
                if similarities:
                    write_similarities(files["similarities"], cosines, texts)
                done[name] = [version, shares(name, mask, prompts, model, background is not None)]
                keep(folder, [name, done[name]])
            areas += done[name][1]
            if len(small) < SHOWN:
                mask = np.asarray(open_image(files["masks"], mask=True))
                small[name] = blend(image, mask, len(prompts), THUMBNAIL_SIDE)
        if not small:
            raise ValueError(f"None of the {len(photos)} photos can be read: {' '.join([*skipped.values()][:3])}")
        finish(folder, areas, kinds)
    return areas, skipped, small


def prompt_texts(clip: FrozenCLIP, prompts: list[str], templates: list[str], protocol: Protocol) -> ClassTexts:
    """The prompts' embeddings. Raises ValueError if a prompt can't get a pixel, or the background none."""
    if idle := idle_rule(protocol, prompts):
        raise ValueError(f"background is {protocol.background_threshold:g}, but {idle}; or set it to None.")
    check_prompts(clip, prompts, templates)
    return class_texts(clip, prompts, templates)


def named(photos: list[Path]) -> dict[str, Path]:
    """The photos by their paths below the folder that all are in."""
    absolute = [photo.absolute() for photo in photos]
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    return {path.relative_to(shared).as_posix(): path for path in absolute}


def files_of(name: str, kinds: Iterable[str]) -> dict[str, str]:
    """A photo's files in an output folder; a.jpg and a.png differ."""
    return {kind: f"{kind}/{name}.{'npy' if kind == 'similarities' else 'png'}" for kind in kinds}


def all_files(names: Iterable[str], kinds: Iterable[str]) -> set[str]:
    """The files of an output folder with these photos."""
    return {path for name in names for path in files_of(name, kinds).values()} | {"areas.csv"}


@contextmanager
def unfinished(output: Path, about: list) -> Iterator[tuple[Path, dict[str, list]]]:
    """The folder in which an output is made, and what an interrupted run with the same settings did there: of each
    photo its version and its rows of areas.csv. At the end of the block it takes the output's name and place.

    A block that raises or is killed leaves it for the next one, unless no photo is done. Raises ValueError if a folder
    of that name holds other files.
    """
    folder = unfinished_name(output)
    lines = progress(folder) if folder.exists() else []
    if folder.exists() and not lines and not is_earlier_output(folder):
        raise ValueError(f"{folder} holds other files: remove it, or set output=... to another folder.")
    about = json.loads(json.dumps(about))  # as it comes back
    done = dict(lines[1:]) if lines and lines[0] == about else {}
    done = {name: entry for name, entry in done.items() if (folder / files_of(name, ["masks"])["masks"]).is_file()}
    if not done:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        keep(folder, about)
    try:
        yield folder, done
    except BaseException as error:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            error.args = (f"{len(done)} photos are done, in {folder}: run again to go on from there.",)
        raise
    shutil.rmtree(output, ignore_errors=True)
    folder.rename(output)


def progress(folder: Path) -> list:
    """What `keep` wrote, up to a line that an interruption cut."""
    lines = []
    with suppress(OSError, ValueError):
        for line in (folder / PROGRESS).read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(line))
    return lines


def keep(folder: Path, entry: list) -> None:
    with (folder / PROGRESS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def finish(folder: Path, areas: list[dict], kinds: Iterable[str]) -> None:
    """Writes areas.csv, and removes the progress and what an earlier run made of photos that are gone."""
    pd.DataFrame(areas, columns=AREAS).to_csv(folder / "areas.csv", index=False)
    wanted = all_files({row["image"] for row in areas}, kinds)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def write_photo(files: dict[str, Path], image: Image.Image, mask: np.ndarray, prompts, model: str, *, warn: bool):
    """Writes a photo's mask, indexed in the prompts' colours, and its overlay if it is among the files."""
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.fromarray(mask)
    indexed.putpalette(colours_of(len(prompts)).ravel().tolist())
    indexed.save(files["masks"])
    if "overlays" in files:
        overlay(image, mask, prompts, model, warn=warn).save(files["overlays"])


def check_settings(short_side: int, background: float | None, prompts: list[str]) -> None:
    """Raises ValueError for a side that is not a positive integer, a background that is not a probability, and one that
    shares its name with a prompt.
    """
    if isinstance(short_side, bool) or not isinstance(short_side, Integral) or short_side < 1:
        raise ValueError(f"short_side is {short_side!r}: give a whole number of pixels, at least 1.")
    if background is None:
        return
    if isinstance(background, bool) or not isinstance(background, Real) or not 0 <= background <= 1:
        raise ValueError(f"background is {background!r}: give a probability between 0 and 1, or None.")
    if any(map(is_background, prompts)):
        raise ValueError(
            "With background=..., pixels of no prompt are called background: give that prompt another name."
        )


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
    """Whether it holds exactly areas.csv and the files of the photos named there."""
    if not folder.is_dir():
        return False
    try:
        table = pd.read_csv(folder / "areas.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return False
    kinds = {path.name for path in folder.iterdir()} - {"areas.csv"}
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    like_one = [*table] == AREAS and "masks" in kinds <= set(KINDS)
    return like_one and held == all_files(table["image"].unique(), kinds)


def photo_protocol(clip: FrozenCLIP, token_stride: int | None, background: float | None) -> Protocol:
    """The whole photo at once; a network of timm's does strides below its patches by shifted passes."""
    passes = "shifted" if clip.is_timm and token_stride else "joint"
    rule = {} if background is None else {"background_rule": "probability", "background_threshold": float(background)}
    return Protocol(token_stride=token_stride, passes=passes, logit_scale=clip.logit_scale, **rule)


def token_cosines(clip, method: Method, image, texts: ClassTexts, protocol: Protocol, short_side: int) -> TokenLogits:
    """The cosines of a photo's tokens with the texts."""
    limited = protocol.model_copy(update=sizes(clip, image.size, short_side, protocol))
    return token_logits(clip, {"": method}, image, texts.features, limited)[""]


def labels_of(tokens: TokenLogits, texts: ClassTexts, protocol: Protocol) -> np.ndarray:
    """uint8 [H, W]: 0 for background, k for the k-th prompt, from 1."""
    labels = label_maps(tokens, texts, protocol).to(torch.uint8).cpu().numpy()
    return labels + (protocol.background_rule == "none")


def similarity_maps(tokens: TokenLogits, texts: ClassTexts) -> Iterator[np.ndarray]:
    """The cosines of all pixels with each prompt, float32 [H, W]; of several phrases the largest."""
    index = texts.phrase_index.to(tokens.logits.device)
    for k in range(int(index.max()) + 1):
        yield replace(tokens, logits=tokens.logits[index == k]).upscaled().amax(0).cpu().numpy()


def sizes(clip, size: tuple[int, int], short_side: int, protocol: Protocol) -> dict[str, int]:
    """The protocol's short side for a photo and, for very long or wide ones, square windows of that side, because
    attention takes memory with the square of a photo's length.
    """
    side = min(short_side, *size)
    if protocol.window or max(size) <= LONGEST * min(size):
        return {"short_side": side}
    window = max(side, clip.patch_size)
    return {"short_side": side, "window": window, "window_stride": math.ceil(window / 2)}


def write_similarities(path: Path, tokens: TokenLogits, texts: ClassTexts) -> None:
    """Writes the `similarity_maps`, float16 [K, H, W] in NumPy's format, one prompt after the other."""
    shape = (int(texts.phrase_index.max()) + 1, len(tokens.rows), len(tokens.columns))
    maps = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for k, values in enumerate(similarity_maps(tokens, texts)):
        maps[k] = values
    maps.flush()


def shares(name: str, mask: np.ndarray, prompts: list[str], model: str, with_background: bool) -> list[dict]:
    """Each prompt's share of a photo's pixels, one row per prompt."""
    share = np.bincount(mask.ravel(), minlength=len(prompts) + 1) / mask.size
    rows = zip(["background", *prompts], share.tolist(), strict=True)
    rows = [{"image": name, "prompt": prompt, "share": round(part, 6), "model": model} for prompt, part in rows]
    return rows if with_background else rows[1:]
