"""Texts for the text encoder: prompt templates, and a caption's nouns as additional prompts (paper, section 4 and
appendix).
"""

import re
from functools import lru_cache

import yaml

from pacl.runtime.config import project_root


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

        return spacy.load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError):
        raise ValueError(
            "features.nouns is spacy, but spaCy or its English model isn't installed: run `pip install spacy` and "
            "`python -m spacy download en_core_web_sm`, or set it to textblob."
        ) from None


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
