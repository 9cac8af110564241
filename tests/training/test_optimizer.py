"""AdamW against torch's own, its groups of weights, and the learning rate of every step."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.small_training import D, D_v

from pacl.loss import LogitScale
from pacl.model import VisionEmbedder
from pacl.training.train import AdamW, learning_rate_factor, parameter_groups

ROOT = Path(__file__).parents[2]


def test_learning_rate_by_hand():
    factors = [learning_rate_factor(step, 14, 4) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.5)  # half way of the ten steps after the warm-up
    assert factors[14] == pytest.approx(0.0, abs=1e-12)
    assert factors[6] == pytest.approx((1 + math.cos(0.2 * math.pi)) / 2)
    assert all(a > b for a, b in zip(factors[4:], factors[5:], strict=False))


def test_no_warm_up_starts_at_the_full_rate():
    assert [learning_rate_factor(step, 2, 0) for step in (0, 1)] == [1.0, pytest.approx(0.5)]


def test_a_warm_up_of_all_steps_ends_at_the_full_rate():
    """After the last step torch's schedule asks for one more rate."""
    assert [learning_rate_factor(step, 4, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_weight_decay_is_for_matrices_only():
    embedder = VisionEmbedder(D_v, D)
    decayed, others = parameter_groups(embedder, LogitScale(), 0.2)
    assert decayed["weight_decay"] == 0.2 and others["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in decayed["params"]] == [(D, D_v), (D, D), (D, D_v)]
    assert [tuple(p.shape) for p in others["params"]] == [(D,), (D,), (D,), ()]


def trained(kind, embedder, steps: int, state: dict | None = None):
    """An optimiser after steps whose gradients are random, those of its first step the same each time."""
    optimizer = kind(parameter_groups(embedder, LogitScale(), 0.2), lr=0.1, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, 20, 2))
    if state:
        optimizer.load_state_dict(state)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        for p in embedder.parameters():
            assert p.grad is None
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
        schedule.step()
    return optimizer


def test_steps_are_those_of_torchs_adamw_to_the_bit():
    ours = VisionEmbedder(D_v, D)
    start, theirs = (copy.deepcopy(ours) for _ in range(2))
    state, expected = trained(AdamW, ours, 12).state_dict(), trained(torch.optim.AdamW, theirs, 12).state_dict()
    assert not torch.equal(ours.skip.weight, start.skip.weight)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert state["param_groups"] == expected["param_groups"]
    trained(AdamW, ours, 3, copy.deepcopy(state))
    trained(torch.optim.AdamW, theirs, 3, copy.deepcopy(state))
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_step_tracks_no_gradient():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    assert weight.is_leaf and torch.is_grad_enabled() and not optimizer.state[weight]["exp_avg"].requires_grad


def test_a_process_that_trains_does_without_torchs_compiler():
    """torch._dynamo, which takes seconds to import: the ablation points would wait for it one after the other."""
    code = """
import sys
from types import SimpleNamespace
import torch
from pacl.config import load_params
from pacl.train import train
settings = load_params("mini", "train").train.model_copy(update={"pairs": 8, "batch_size": 4, "epochs": 2})
batch = torch.randn(4, 3, 5), torch.randn(4, 6), torch.arange(4)
source = SimpleNamespace(width=5, text_width=6, steps=2, epoch=lambda *_: iter([batch, batch]))
_, history = train(source, settings)
print(len(history), "torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["2", "False"]
