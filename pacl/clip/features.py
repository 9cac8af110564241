"""What never changes while the embedder trains, computed once: patch tokens of the images, embeddings of the texts
(paper, section 3: both encoders are frozen).
"""

import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pacl.clip.frozen import FrozenCLIP
from pacl.data.images import Images
from pacl.data.prompts import nouns, templates
from pacl.runtime.files import read_json, write_json
from pacl.runtime.processes import in_parts, processes, progress_bar


class Preprocessed(torch.utils.data.Dataset):
    """Images as tensors [3, H, W], the way this CLIP takes them."""

    def __init__(self, images: Images, preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocess(self.images[index])


def batches(clip: FrozenCLIP, images: Images, batch_size: int, title: str):
    """Preprocessed images in order, [B, 3, H, W] at a time, with a progress bar; for a GPU every core decodes."""
    workers = 0 if clip.device.type == "cpu" else processes()
    loader = DataLoader(Preprocessed(images, clip.preprocess), batch_size, num_workers=workers)
    return progress_bar(loader, desc=title)


def patch_tokens(clip: FrozenCLIP, images: Images, path: Path, *, batch_size: int) -> None:
    """Writes the patch tokens of all images as float16 [M, N, D_v] in NumPy's format, to be memory-mapped."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (len(images), h * w, clip.width))

    def write(part: range) -> None:
        start = part.start
        for batch in batches(clip, images.some(part), batch_size, path.stem):
            rows[start : start + len(batch)] = clip.patch_features(batch).half().cpu()
            start += len(batch)

    in_parts(write, len(images), batch_size)
    rows.flush()


def tokens_of(clip: FrozenCLIP, images: Images, batch_size: int) -> np.ndarray:
    """Patch tokens of all images float16 [M, N, D_v], in memory."""
    with tempfile.TemporaryDirectory() as folder:
        patch_tokens(clip, images, Path(folder, "tokens.npy"), batch_size=batch_size)
        return np.load(Path(folder, "tokens.npy"))


def text_table(captions: dict[str, list[list[str]]], tagger: str = "textblob") -> dict:
    """Every distinct caption and noun once, and for each split the numbers of each image's captions and nouns.

    captions: split -> for each image its captions. Returns {"captions": [...], "nouns": [...], split: {"captions":
    [[...]], "nouns": [[...]]}}.
    """
    distinct_captions = list(dict.fromkeys(text for rows in captions.values() for texts in rows for text in texts))
    parts = in_parts(lambda part: [nouns(distinct_captions[i], tagger) for i in part], len(distinct_captions))
    nouns_of = dict(zip(distinct_captions, chain.from_iterable(parts), strict=True))
    of_image = {
        split: [{n: None for text in texts for n in nouns_of[text]} for texts in rows]
        for split, rows in captions.items()
    }
    distinct_nouns = dict.fromkeys(noun for rows in of_image.values() for found in rows for noun in found)
    caption_number, noun_number = (
        {text: i for i, text in enumerate(distinct)} for distinct in (distinct_captions, distinct_nouns)
    )
    table = {"captions": distinct_captions, "nouns": list(distinct_nouns)}
    for split, rows in captions.items():
        numbers = [[caption_number[text] for text in texts] for texts in rows]
        table[split] = {
            "captions": numbers,
            "nouns": [[noun_number[noun] for noun in found] for found in of_image[split]],
        }
    return table


def text_features(clip: FrozenCLIP, table: dict, folder: Path, template_list: str) -> None:
    """Writes texts.json, which names the CLIP too, caption_features.npy [captions, D] and noun_features.npy [nouns,
    templates, D], float16.
    """
    np.save(folder / "caption_features.npy", clip.text_features(table["captions"]).half().cpu().numpy())
    np.save(folder / "noun_features.npy", noun_features(clip, table["nouns"], template_list))
    write_json(folder / "texts.json", {"clip": clip.identity, **table})


def noun_features(clip: FrozenCLIP, nouns: list[str], template_list: str) -> np.ndarray:
    """Embeddings of every noun in every template, float16 [nouns, templates, D]."""
    forms = templates(template_list)
    prompts = [form.format(noun) for noun in nouns for form in forms]
    return clip.text_features(prompts).half().cpu().numpy().reshape(len(nouns), len(forms), clip.dim)


class Texts:
    """The texts of one split's images, and what is drawn from them at each step: a caption, or one of its nouns in
    one of the templates. Raises FileNotFoundError, or ValueError for files that are torn or of different runs.
    """

    def __init__(self, folder: Path, split: str):
        table = read_json(folder / "texts.json", split)
        self.caption_features = np.array(read_features(folder / "caption_features.npy", 2))
        self.noun_features = np.array(read_features(folder / "noun_features.npy", 3))
        counts = {"captions": len(self.caption_features), "nouns": len(self.noun_features)}
        if not _numbers_fit(table[split], counts):
            raise ValueError(
                f"{folder / 'texts.json'} doesn't go with the features beside it: remove {folder} and run the stage "
                "features again (`dvc repro features`)."
            )
        self.captions, self.nouns = table[split]["captions"], table[split]["nouns"]
        self.clip_identity = table.get("clip")

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, images: np.ndarray, noun_share: float) -> tuple[Tensor, Tensor]:
        """One text for each image: embeddings [B, D] and keys [B], equal where two texts name the same caption or the
        same noun.

        noun_share: the probability of a noun prompt where the image's captions have a noun.
        """
        chosen = [self.draw_one(rng, image, noun_share) for image in images]
        features = np.stack([feature for feature, _ in chosen]).astype(np.float32)
        return torch.from_numpy(features), torch.tensor([key for _, key in chosen])

    def draw_one(self, rng, image: int, noun_share: float) -> tuple[np.ndarray, int]:
        as_noun, pick, template = rng.random(3)
        if as_noun < noun_share and self.nouns[image]:
            noun = self.nouns[image][int(pick * len(self.nouns[image]))]
            return self.noun_features[noun, int(template * self.noun_features.shape[1])], -1 - noun
        caption = self.captions[image][int(pick * len(self.captions[image]))]
        return self.caption_features[caption], caption


def read_features(path: Path, dimensions: int) -> np.ndarray:
    """An array of float16 that the stage features wrote, memory-mapped. Raises FileNotFoundError, or ValueError for one
    that is torn or of another kind.
    """
    try:
        array = np.load(path, mmap_mode="r")
        if array.dtype != np.float16 or array.ndim != dimensions:
            raise ValueError(f"{array.dtype} {list(array.shape)}")
        return array
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except Exception as error:  # NumPy's reader raises nearly every kind for a damaged header
        raise ValueError(
            f"{path} is no whole array of features ({error}): remove it and run `dvc repro features`."
        ) from None


def _numbers_fit(table, counts: dict[str, int]) -> bool:
    """Whether a split's table has as many rows of captions as of nouns, a caption in each, and numbers of texts that
    there are.
    """
    try:
        rows = {kind: table[kind] for kind in counts}
        numbers = all(type(n) is int and 0 <= n < counts[kind] for kind in rows for row in rows[kind] for n in row)
        return numbers and all(rows["captions"]) and len(rows["captions"]) == len(rows["nouns"])
    except (TypeError, KeyError):
        return False
