"""Classes as text embeddings: each phrase's prompts averaged (paper, appendix). Needs no open_clip."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.data.benchmark import phrases_of
from pacl.runtime.files import checksum, write_atomically

if TYPE_CHECKING:
    from pacl.clip.frozen import FrozenCLIP


@dataclass(frozen=True, eq=False)
class ClassTexts:
    """The classes as text embeddings, one embedding a phrase (a synonym, or a word of a protocol's list).

    features: [M, D], of length 1; None where only their logits are read. phrase_index: int64 [M], the class of each
    phrase. background_listed: whether class 0 is the background, described by phrases of its own.
    """

    features: Tensor | None
    phrase_index: Tensor
    background_listed: bool = False

    def first_phrases(self) -> list[int]:
        """Where each class's first phrase stands among all phrases, K numbers below M."""
        index = self.phrase_index.tolist()
        return [index.index(k) for k in range(max(index) + 1)]


def class_texts(clip: FrozenCLIP, names: Iterable[str], templates: list[str]) -> ClassTexts:
    """Each phrase's embedding, the mean over templates; `names` has one entry a class, its phrases separated by commas.

    Each prompt's embedding has length 1 before the mean, and the mean after it (paper, appendix: seven templates). A
    phrase's prompts are embedded by themselves, so that its embedding doesn't depend on the other phrases.
    Raises ValueError for a template without {} and for a class without a phrase.
    """
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"every template needs a {{}} for the class, which {list(templates)} lacks.")
    phrases = [phrases_of(name) for name in names]
    if not all(phrases):
        raise ValueError(f"class {phrases.index([])} of {len(phrases)} has no name.")
    prompts = [[template.format(phrase) for template in templates] for group in phrases for phrase in group]
    features = torch.stack([mean_features(clip, of_phrase) for of_phrase in prompts])  # [M, D]
    index = [k for k, group in enumerate(phrases) for _ in group]
    return ClassTexts(F.normalize(features, dim=-1), torch.tensor(index, dtype=torch.long, device=features.device))


def mean_features(clip: FrozenCLIP, prompts: list[str]) -> Tensor:
    """The mean embedding of some prompts [D], computed once for all stages: a file in `clip.kept_texts` keeps it, named
    after all that it depends on, with a checksum. A missing or damaged file is written again.
    """
    if not getattr(clip, "kept_texts", None):
        return clip.text_features(prompts).mean(dim=0)
    kind = [clip.identity["weights"], clip.dtype, clip.device.type, torch.__version__, torch.get_num_threads()]
    path = clip.kept_texts / checksum(json.dumps([kind, prompts]).encode())
    with suppress(OSError):
        stored = path.read_bytes()
        if stored[64:] and stored[:64] == checksum(stored[64:]).encode():
            return torch.frombuffer(bytearray(stored[64:]), dtype=torch.float32).to(clip.device)
    mean = clip.text_features(prompts).mean(dim=0)
    numbers = mean.cpu().numpy().tobytes()
    with suppress(OSError):  # of a full disk, for example: a later stage computes it again
        write_atomically(path, checksum(numbers).encode() + numbers)
    return mean
