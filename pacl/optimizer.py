"""AdamW with a schedule for every step (paper, appendix)."""

import inspect
import math

import torch


class AdamW(torch.optim.AdamW):
    """torch's, without the wrappers that hide its methods from torch.compile: to call one imports torch._dynamo, which
    takes seconds, and nothing here compiles an optimiser.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad, add_param_group, state_dict, load_state_dict = (
        inspect.unwrap(getattr(torch.optim.AdamW, name))
        for name in ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
    )


def parameter_groups(embedder, logit_scale, weight_decay: float) -> list[dict]:
    """Weight decay on the weight matrices only, as CLIP does."""
    weights = [p for p in embedder.parameters() if p.ndim > 1]
    others = [p for p in embedder.parameters() if p.ndim <= 1] + list(logit_scale.parameters())
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine to zero, changed at every step (paper, appendix)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
