"""Texts for the text encoder: prompt templates, and the nouns of a caption as prompts beside it (paper, section 4 and
appendix).
"""

import re
from functools import lru_cache

import yaml

from pacl.config import project_root


@lru_cache(maxsize=1)
def all_templates() -> dict:
    return yaml.safe_load((project_root() / "data/templates.yaml").read_text(encoding="utf-8"))


def templates(name: str) -> list[str]:
    """The prompt templates of one list in data/templates.yaml, each with one {}. Raises ValueError for an unknown
    name.
    """
    if name not in all_templates():
        raise ValueError(
            f"{name!r} is no list of prompt templates; data/templates.yaml has {', '.join(all_templates())}."
        )
    return all_templates()[name]


@lru_cache(maxsize=1)
def tagger():
    from textblob.en.taggers import PatternTagger  # its lexicon is part of the package: no download

    return PatternTagger()


@lru_cache(maxsize=100_000)
def nouns(caption: str) -> tuple[str, ...]:
    """The nouns of a caption in order, once each; nouns in a row are one compound ("brick wall").

    The paper doesn't name its extractor; this is TextBlob's rule-based tagger.
    """
    runs, run = [], []
    for word, tag in [*tagger().tag(caption.lower()), (".", ".")]:
        if tag.startswith("NN") and re.search(r"[^\W\d_]", word):
            run.append(word)
        elif run:
            runs.append(" ".join(run))
            run = []
    return tuple(dict.fromkeys(runs))
