"""Tiny-ImageNet in its official layout, 64 x 64 pixels of 200 classes of ImageNet, to pre-train a small CLIP on.

Their texts are made from the classes' names and from a table of broader words; captioned photos can join them.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pacl.data.images import open_image
from pacl.data.pairs import Pairs, Subject
from pacl.runtime.config import project_yaml
from pacl.sources.caption_sets import CAPTIONED, captioned
from pacl.sources.layouts import check_present, data_set, lines_of, partial, parts_of, text_of

TINY_IMAGENET = data_set("tiny_imagenet")
CAPTION_SETS = ("flickr8k", "coco")  # that join its photos as training pairs
PROMPT = "a photo of a {}."
LONGEST = 5  # words of a name that is searched for in captions


def classes_of(folder: Path) -> list[str]:
    """The WordNet ids of the 200 classes, in the order of their labels."""
    return lines_of(parts_of(folder, TINY_IMAGENET)["classes"])


def training_photos(folder: Path) -> tuple[list[Path], list[int]]:
    """Paths and labels. Raises FileNotFoundError for a class without photos."""
    place, found = parts_of(folder, TINY_IMAGENET)["photos"], []
    for label, wnid in enumerate(classes_of(folder)):
        photos = sorted((place / wnid / "images").glob("*.JPEG"))
        if not photos:
            raise FileNotFoundError(f"{place / wnid / 'images'} has no photos: unpack Tiny-ImageNet again.")
        found += [(path, label) for path in photos]
    return [path for path, _ in found], [label for _, label in found]


def validation_photos(folder: Path) -> tuple[list[Path], list[int]]:
    """Paths and labels of the validation photos that are there. Raises ValueError for a corrupt list of them."""
    parts = parts_of(folder, TINY_IMAGENET)
    label_of = {wnid: label for label, wnid in enumerate(classes_of(folder))}
    try:
        rows = [line.split("\t")[:2] for line in lines_of(parts["validation classes"])]
        found = [(parts["validation photos"] / name, label_of[wnid]) for name, wnid in rows]
    except (ValueError, KeyError):
        raise ValueError(f"{parts['validation classes']} is corrupt: unpack Tiny-ImageNet again.") from None
    found = [(path, label) for path, label in found if path.is_file()]
    return [path for path, _ in found], [label for _, label in found]


def class_names(folder: Path) -> list[tuple[str, ...]]:
    """The names of each class as words.txt has them, the usual one first. Raises ValueError for one without."""
    path = parts_of(folder, TINY_IMAGENET)["names"]
    names = dict(line.split("\t", 1) for line in text_of(path).splitlines() if "\t" in line)
    if absent := [wnid for wnid in classes_of(folder) if wnid not in names]:
        raise ValueError(f"{path} has no name of {absent[0]}: unpack Tiny-ImageNet again.")
    return [tuple(name.strip() for name in names[wnid].split(",")) for wnid in classes_of(folder)]


def broader_words() -> dict:
    """data/tiny_imagenet_broader_words.yaml: `kinds`, the words of each WordNet id, and `people`."""
    return project_yaml("data/tiny_imagenet_broader_words.yaml")


def read_images(paths: list[Path], size: int) -> np.ndarray:
    """uint8 [M, size, size, 3]; other photos than square ones are squeezed."""
    return np.stack([np.asarray(open_image(path).resize((size, size), Image.Resampling.BICUBIC)) for path in paths])


def validation_split(raw: Path) -> tuple[list[Path], list[int], list[str]]:
    """The validation photos, which nothing was trained on, their labels, and the classes' usual names."""
    folder = raw / TINY_IMAGENET["folder"]
    return *validation_photos(folder), [names[0] for names in class_names(folder)]


def validation_set(raw: Path, size: int) -> tuple[np.ndarray, list[int], list[str]]:
    """`validation_split`, with the photos read: uint8 [M, size, size, 3]."""
    paths, *about = validation_split(raw)
    return read_images(paths, size), *about


def wanted(caption_sets: Iterable[str]) -> list[dict]:
    """Tiny-ImageNet and caption sets, as `check_present` takes them."""
    return [TINY_IMAGENET, *(CAPTIONED[name] for name in caption_sets)]


def read_captions(raw: Path, caption_sets: Iterable[str]) -> tuple[list[Path], list[list[str]], list[str]]:
    """The photos of caption sets, the captions of each, and sentences on what is missing."""
    photos, captions, notes = [], [], []
    for dataset in (CAPTIONED[name] for name in caption_sets):
        found, texts, _ = captioned(raw / dataset["folder"], dataset)
        photos, captions, notes = photos + found, captions + texts, [*notes, partial(dataset, len(found))]
    return photos, captions, notes


def captioned_photos(raw: Path) -> tuple[list[Path], list[list[str]], list[str]]:
    """Training pairs: Tiny-ImageNet's photos, whose captions are PROMPT with the usual name of the class and with each
    broader word, then those of CAPTION_SETS; and sentences on what is missing.
    """
    folder, table = raw / TINY_IMAGENET["folder"], broader_words()
    classes = zip(classes_of(folder), class_names(folder), strict=True)
    texts = [[PROMPT.format(word) for word in (names[0], *broader_of(wnid, table))] for wnid, names in classes]
    paths, labels = training_photos(folder)
    photos, captions, notes = read_captions(raw, CAPTION_SETS)
    return paths + photos, [texts[k] for k in labels] + captions, [partial(TINY_IMAGENET, len(paths)), *notes]


def pretraining_pairs(raw: Path, caption_sets: list[str], size: int) -> Pairs:
    """Tiny-ImageNet's training photos with the names of their classes, and the photos of caption sets with captions.

    Raises FileNotFoundError with a list of what is missing in raw.
    """
    check_present([(raw / dataset["folder"], dataset, "") for dataset in wanted(caption_sets)])
    folder = raw / TINY_IMAGENET["folder"]
    paths, labels = training_photos(folder)
    photos, captions, _ = read_captions(raw, caption_sets)
    paths = paths + photos
    subjects = make_subjects(classes_of(folder), class_names(folder), captions, broader_words())
    first = len(subjects) - len(captions)
    return Pairs(read_images(paths, size), np.array([*labels, *range(first, len(subjects))]), subjects)


def make_subjects(wnids: list[str], names: list[tuple], captions: list[list[str]], table: dict) -> list[Subject]:
    """The classes, then the captioned photos. A caption is true of a class if it says one of its words; the words of
    classes that a photo's captions say are true of the photo.
    """
    broader = [broader_of(wnid, table) for wnid in wnids]
    true = [{*own, *wide, *maybe(wnid, table)} for wnid, own, wide in zip(wnids, names, broader, strict=True)]
    forms, wide = spoken_forms(set().union(*true), table), set().union(*broader)
    photos = []
    for texts in captions:
        said = set().union(*(words_said(text, forms) for text in texts))
        photos.append(Subject(tuple(texts), (), tuple(sorted(said & wide)), frozenset([*texts, *said])))
        for words in true:
            words |= set(texts) if said & words else set()
    classes = zip(names, broader, true, strict=True)
    return [Subject((), own, tuple(wide), frozenset(all_true)) for own, wide, all_true in classes] + photos


def broader_of(wnid: str, table: dict) -> list[str]:
    """A class's broader words, and those for people if nearly all of its photos show somebody."""
    people = table["people"]
    return table["kinds"][wnid] + people["words"] * (wnid in people["nearly_all"])


def maybe(wnid: str, table: dict) -> list[str]:
    """Words that hold for many photos of a class: neither texts of theirs nor wrong for them."""
    return table["people"]["words"] * (wnid in table["people"]["many"])


def spoken_forms(words: set[str], table: dict) -> dict[str, set[str]]:
    """What captions write for each word, in lower case: itself, its plural, what people are called."""
    forms: dict[str, set[str]] = {}
    for word in words:
        called = table["people"]["called"] if word in table["people"]["words"] else ()
        for form in (word.lower(), f"{word.lower()}s", f"{word.lower()}es", *called):
            forms.setdefault(form, set()).add(word)
    return forms


def words_said(text: str, forms: dict[str, set[str]]) -> set[str]:
    """The words whose forms the text has, of at most LONGEST words each."""
    spoken = re.findall(r"[\w'-]+", text.lower())
    runs = (" ".join(spoken[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(spoken) - n + 1))
    return set().union(*(forms[run] for run in runs if run in forms))
