"""What stays the same while the embedder trains, computed once: the images' patch tokens and the texts' embeddings
(paper, section 3: both encoders are frozen). Reading them needs no CLIP.
"""

import mmap
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pacl.data.images import Images
from pacl.data.prompts import ENGLISH, nouns, tagger, templates
from pacl.runtime.files import read_array, read_json, write_json
from pacl.runtime.processes import in_parts, processes, progress_bar

if TYPE_CHECKING:
    from pacl.clip.frozen import FrozenCLIP


LARGE_BYTES = 2**27  # texts' embeddings beyond it are read from the disk as they are drawn


def batches(clip: "FrozenCLIP", images: Images, batch_size: int, title: str):
    """Preprocessed images in order, [B, 3, H, W] at a time, with a progress bar; for a GPU, all cores decode."""

    def stacked(pictures: list) -> Tensor:
        return torch.stack([clip.preprocess(picture) for picture in pictures])

    workers = 0 if clip.device.type == "cpu" else processes()
    return progress_bar(DataLoader(images, batch_size, num_workers=workers, collate_fn=stacked), desc=title)


def patch_tokens(clip: "FrozenCLIP", images: Images, path: Path, *, batch_size: int) -> None:
    """Writes the patch tokens of all images, float16 [M, N, D_v] in NumPy's format, which can be memory-mapped."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (len(images), h * w, clip.width))

    def write(part: range) -> None:
        start = part.start
        for batch in batches(clip, images.take(part), batch_size, path.stem):
            rows[start : start + len(batch)] = clip.patch_features(batch).half().cpu()
            start += len(batch)

    in_parts(write, len(images), batch_size)
    rows.flush()


def tokens_of(clip: "FrozenCLIP", images: Images, batch_size: int) -> np.ndarray:
    """The patch tokens of all images in memory, float16 [M, N, D_v]."""
    with tempfile.TemporaryDirectory() as folder:
        patch_tokens(clip, images, Path(folder, "tokens.npy"), batch_size=batch_size)
        return np.load(Path(folder, "tokens.npy"))


def text_table(captions: dict[str, list[list[str]]], model: str = ENGLISH) -> dict:
    """Every distinct caption and noun once, and for each split the numbers of each image's captions and nouns.

    captions: split -> for each image its captions. model: spaCy's, for the nouns. Returns {"captions": [...], "nouns":
    [...], split: {"captions": [[...]], "nouns": [[...]]}}.
    """
    distinct = list(dict.fromkeys(text for rows in captions.values() for texts in rows for text in texts))
    tagger(model)  # here, or every part would load it
    parts = in_parts(lambda part: nouns(distinct[part.start : part.stop], model), len(distinct))
    nouns_of = dict(zip(distinct, chain.from_iterable(parts), strict=True))
    numbers = {"captions": {text: i for i, text in enumerate(distinct)}, "nouns": {}}
    table = {}
    for split, rows in captions.items():
        found = [dict.fromkeys(noun for text in texts for noun in nouns_of[text]) for texts in rows]
        for noun in chain.from_iterable(found):
            numbers["nouns"].setdefault(noun, len(numbers["nouns"]))
        table[split] = {
            kind: [[numbers[kind][text] for text in texts] for texts in texts_of_images]
            for kind, texts_of_images in (("captions", rows), ("nouns", found))
        }
    return {kind: list(texts) for kind, texts in numbers.items()} | table


def text_features(clip: "FrozenCLIP", table: dict, folder: Path, template_list: str) -> None:
    """Writes texts.json, which names the CLIP too, caption_features.npy [captions, D] and noun_features.npy [nouns,
    templates, D], float16.
    """
    np.save(folder / "caption_features.npy", clip.text_features(table["captions"]).half().cpu().numpy())
    np.save(folder / "noun_features.npy", noun_features(clip, table["nouns"], template_list))
    write_json(folder / "texts.json", {"clip": clip.identity, **table})


def noun_features(clip: "FrozenCLIP", nouns: list[str], template_list: str) -> np.ndarray:
    """The embedding of every noun in every template, float16 [nouns, templates, D]."""
    forms = templates(template_list)
    prompts = [form.format(noun) for noun in nouns for form in forms]
    return clip.text_features(prompts).half().cpu().numpy().reshape(len(nouns), len(forms), clip.dim)


def draw_text(
    rng: np.random.Generator, noun_share: float, captions: Sequence, nouns: Sequence, forms: Sequence
) -> tuple:
    """The text that an image is trained with at one step: (a caption, None), or (a noun, one of the forms) for a noun
    prompt, which is drawn with probability noun_share if there are any nouns.
    """
    as_noun, pick, form = rng.random(3)
    found = nouns if as_noun < noun_share else ()
    texts = found or captions
    return texts[int(pick * len(texts))], forms[int(form * len(forms))] if found else None


class Texts:
    """The texts of one split's images, from which every training step draws.

    Raises FileNotFoundError, or ValueError for files that are corrupt or come from different runs.
    """

    def __init__(self, folder: Path, split: str):
        table = read_json(folder / "texts.json", split)
        self.caption_features = in_memory(read_features(folder / "caption_features.npy", 2))
        self.noun_features = in_memory(read_features(folder / "noun_features.npy", 3))
        counts = {"captions": len(self.caption_features), "nouns": len(self.noun_features)}
        if not _numbers_fit(table[split], counts):
            raise ValueError(
                f"{folder / 'texts.json'} doesn't match the features next to it: remove {folder} and run the stage "
                "features again (`dvc repro features`)."
            )
        self.captions, self.nouns = table[split]["captions"], table[split]["nouns"]
        self.clip_identity = table.get("clip")

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, images: np.ndarray, noun_share: float) -> tuple[Tensor, Tensor]:
        """One text for each image: embeddings [B, D], and keys [B] that are equal for the same caption or noun.

        noun_share: the probability of a noun prompt if the image's captions have a noun.
        """
        forms = range(self.noun_features.shape[1])
        drawn = [draw_text(rng, noun_share, self.captions[i], self.nouns[i], forms) for i in images]
        features = [
            self.caption_features[text] if form is None else self.noun_features[text, form] for text, form in drawn
        ]
        keys = [text if form is None else -1 - text for text, form in drawn]
        let_go(self.caption_features, self.noun_features)
        return torch.from_numpy(np.stack(features).astype(np.float32)), torch.tensor(keys)


def read_features(path: Path, dimensions: int) -> np.ndarray:
    """A float16 array that the stage features wrote, memory-mapped.

    Raises FileNotFoundError, or ValueError if it is corrupt or of another kind.
    """
    array = read_array(path, mmap_mode="r")
    if array.dtype != np.float16 or array.ndim != dimensions:
        kind = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{path} is not an array of features ({kind}): remove it and run `dvc repro features`.")
    return array


def in_memory(features: np.ndarray) -> np.ndarray:
    """A copy of a small memory map; a large one as it is."""
    return np.array(features) if features.nbytes < LARGE_BYTES else features


def rows_of(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of some rows of an array or a memory map."""
    found = np.asarray(features[rows])
    let_go(features)
    return found


def let_go(*arrays: np.ndarray) -> None:
    """Gives back the pages of memory maps: a process would come to hold all that it has ever read of them, which for a
    hundred thousand images is tens of gigabytes. The system's cache keeps them. Linux only.
    """
    for array in arrays:
        if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            array._mmap.madvise(mmap.MADV_DONTNEED)


def _numbers_fit(table, counts: dict[str, int]) -> bool:
    """Whether a split's table lists as many images' captions as nouns, a caption for each, and only known numbers."""
    try:
        rows = {kind: table[kind] for kind in counts}
        numbers = all(type(n) is int and 0 <= n < counts[kind] for kind in rows for row in rows[kind] for n in row)
        return numbers and all(rows["captions"]) and len(rows["captions"]) == len(rows["nouns"])
    except (TypeError, KeyError):
        return False
