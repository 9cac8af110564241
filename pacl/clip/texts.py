"""Classes as text embeddings: each phrase's prompts averaged (paper, appendix). Needs no open_clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.data.benchmark import phrases_of

if TYPE_CHECKING:
    from pacl.clip.frozen import FrozenCLIP


@dataclass(frozen=True, eq=False)
class ClassTexts:
    """The classes as text embeddings, one embedding a phrase (a synonym, or a word of a protocol's list).

    features: [M, D], of length 1. phrase_index: int64 [M], the class of each phrase. background_listed: whether class 0
    is the background, described by phrases of its own.
    """

    features: Tensor
    phrase_index: Tensor
    background_listed: bool = False

    def first_phrases(self) -> list[int]:
        """Where each class's first phrase stands among all phrases, K numbers below M."""
        index = self.phrase_index.tolist()
        return [index.index(k) for k in range(max(index) + 1)]


def class_texts(clip: FrozenCLIP, names: Iterable[str], templates: list[str]) -> ClassTexts:
    """Each phrase's embedding, the mean over templates; `names` has one entry a class, its phrases separated by commas.

    Each prompt's embedding has length 1 before the mean, and the mean after it (paper, appendix: seven templates).
    Raises ValueError for a template without {} and for a class without a phrase.
    """
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"every template needs a {{}} for the class, which {list(templates)} lacks.")
    phrases = [phrases_of(name) for name in names]
    if not all(phrases):
        raise ValueError(f"class {phrases.index([])} of {len(phrases)} has no name.")
    prompts = [template.format(phrase) for group in phrases for phrase in group for template in templates]
    features = clip.text_features(prompts).reshape(-1, len(templates), clip.dim).mean(dim=1)  # [M, D]
    index = [k for k, group in enumerate(phrases) for _ in group]
    return ClassTexts(F.normalize(features, dim=-1), torch.tensor(index, dtype=torch.long, device=features.device))
