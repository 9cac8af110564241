"""What may be said of an image, to pre-train a CLIP: a caption, or a name of its class in a template."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

RARE = 3


@dataclass(frozen=True)
class Subject:
    """What one image shows, or all images of a class.

    captions: whole sentences; without any, a text is one of `names` in a template, the usual name first.
    broader: further words that are true of it.
    true: every caption, name and word that is true of its images, so that none of them is a negative.
    """

    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    broader: tuple[str, ...] = ()
    true: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Pairs:
    """images: uint8 [M, H, W, 3]; kinds: int [M], the subject of each."""

    images: np.ndarray
    kinds: np.ndarray
    subjects: list[Subject]


@dataclass(frozen=True)
class Said:
    """Texts of some images of a batch. rows: which images; texts: one for each; words: what each text says, as
    `Subject.true` has it.
    """

    rows: list[int]
    texts: list[str]
    words: list[str]


def captioned_pairs(images: np.ndarray, captions: list[str]) -> Pairs:
    """Images with a caption each: M subjects."""
    return Pairs(images, np.arange(len(images)), [Subject((text,), true=frozenset([text])) for text in captions])


def draw_texts(rng: np.random.Generator, subjects: list[Subject], forms: list[list[str]]) -> Said:
    """A caption of each subject, or its name in a template: the usual name half of the time, else any of them.

    forms: lists of templates; a list is drawn, then one of its templates.
    """
    words = [draw_word(rng, subject) for subject in subjects]
    texts = [word if one.captions else fill(rng, word, forms) for word, one in zip(words, subjects, strict=True)]
    return Said(list(range(len(subjects))), texts, words)


def draw_word(rng: np.random.Generator, subject: Subject) -> str:
    if subject.captions:
        return draw(rng, subject.captions)
    return subject.names[0] if rng.random() < 0.5 else draw(rng, subject.names)


def draw_broader(rng: np.random.Generator, subjects: list[Subject], forms: list[list[str]]) -> Said:
    """A broader word of each subject that has one; images that draw the same word share its text."""
    rows = [row for row, subject in enumerate(subjects) if subject.broader]
    words = [draw(rng, subjects[row].broader) for row in rows]
    text_of = {word: fill(rng, word, forms) for word in dict.fromkeys(words)}
    return Said(rows, [text_of[word] for word in words], words)


def fill(rng: np.random.Generator, word: str, forms: list[list[str]]) -> str:
    return draw(rng, draw(rng, forms)).format(word)


def draw(rng: np.random.Generator, options):
    return options[rng.integers(len(options))]


def true_texts(said: Said, subjects: list[Subject]) -> np.ndarray:
    """bool [b, b]: whether the text of column j is true of the image of row i."""
    return np.array([[word in subjects[row].true for word in said.words] for row in said.rows])


def vocabulary(subjects: list[Subject]) -> list[str]:
    """The names, the broader words, and the words that the captions of at least RARE subjects say."""
    words = {word for one in subjects for word in (*one.names, *one.broader)}
    said = Counter(word for one in subjects for word in set(" ".join(one.captions).lower().split()))
    return sorted(words | {word for word, count in said.items() if count >= RARE})


def spread(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """All indices in a random order that spreads each kind evenly, so that a batch has hardly any two of a kind."""
    order = rng.permutation(len(kinds))
    _, kind, count = np.unique(kinds[order], return_inverse=True, return_counts=True)
    by_kind = np.argsort(kind, kind="stable")
    rank = np.empty_like(kind)  # how many of the same kind come earlier
    rank[by_kind] = np.arange(len(kind)) - np.repeat(np.cumsum(count) - count, count)
    return order[np.argsort((rank + np.arange(len(kind)) / len(kind)) / count[kind], kind="stable")]
