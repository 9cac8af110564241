"""The contrastive loss that trains the vision embedder: CLIP's InfoNCE with phi in place of CLIP's similarity (paper,
section 3).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def contrastive_loss(compatibility: Tensor, logit_scale: Tensor | float, same_text: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE over phi [B, B] (image i, caption j) -> a scalar, the mean of the image-to-text and the
    text-to-image cross-entropy.

    logit_scale: the inverse temperature that multiplies phi.
    same_text: bool [B, B], True where caption j describes image i too; such a pair is not used as a negative. The
    diagonal always counts.
    Raises ValueError for a compatibility that is not square and for a same_text of another shape or type.
    """
    if compatibility.ndim != 2 or compatibility.shape[0] != compatibility.shape[1]:
        raise ValueError(f"compatibility must be [B, B], one caption for each image, not {list(compatibility.shape)}.")
    logits = logit_scale * (compatibility if compatibility.dtype == torch.float64 else compatibility.float())
    if same_text is not None:
        if same_text.shape != compatibility.shape or same_text.dtype != torch.bool:
            raise ValueError(
                f"same_text must be bool {list(compatibility.shape)}, not {same_text.dtype} {list(same_text.shape)}."
            )
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same_text & ~own, -math.inf)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class LogitScale(nn.Module):
    """The logit scale, one number in [1, max] stored as its logarithm. Calling the module returns the scale.

    start: the scale before training (CLIP's is 1 / 0.07). learned: whether training changes it, as CLIP's; the paper's
    loss has no learnable temperature (SPARC, arXiv 2401.09865). Raises ValueError for a start outside [1, max].
    """

    def __init__(self, start: float = 1 / 0.07, max: float = 100.0, *, learned: bool = True):
        super().__init__()
        if not 1 <= start <= max:
            raise ValueError(f"the logit scale must start between 1 and {max}, not at {start}.")
        self.max = max
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learned)

    def forward(self) -> Tensor:
        with torch.no_grad():  # clamps the parameter: clamping the result would block the gradient that leads back
            self.log_scale.clamp_(0, math.log(self.max))
        return self.log_scale.exp()
