"""Training the embedder: steps against AdamW written out, the optimizer against torch's, learning, errors."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_training import B, D, D_v, N, params, random_pairs, same, texts_of
from torch.nn import functional as F

from pacl.checkpoints import load_embedder
from pacl.loss import LogitScale
from pacl.model import VisionEmbedder, compatibility
from pacl.training.cached import CachedPairs
from pacl.training.train import (
    AdamW,
    Run,
    batch_loss,
    explain_bad_loss,
    learning_rate_factor,
    loss_of,
    parameter_groups,
    phi_of,
    train,
    validate,
)

ROOT = Path(__file__).parents[2]


def train_on(patches, texts, settings, **options):
    return train(CachedPairs(patches, texts, settings), settings, **options)


def separable_pairs(folder):
    """Each image has one token that is its caption, seen through a fixed matrix, among tokens of noise."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(B, D))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    patches = 0.3 * rng.normal(size=(B, N, D_v))
    patches[np.arange(B), rng.integers(N, size=B)] = 3 * text @ rng.normal(size=(D, D_v))
    return patches.astype(np.float16), texts_of(text, range(B), folder)


# --- steps ---


def plain_loss(weights, log_scale, patches, text, keys, scale):
    """The paper's loss pair by pair, without pacl's model and loss."""
    main0, bias0, main2, bias2, skip, bias = weights
    rows = []
    for tokens in patches:
        embedded = (tokens @ main0.T + bias0).relu() @ main2.T + bias2 + tokens @ skip.T + bias  # [N, D]
        row = []
        for caption in text:
            attention = (scale * F.cosine_similarity(embedded, caption[None], dim=-1)).softmax(0)
            row.append(F.cosine_similarity(attention @ embedded, caption, dim=0))
        rows.append(torch.stack(row))
    logits = log_scale.exp() * torch.stack(rows)
    total = 0
    for i in range(len(keys)):
        others = [j for j in range(len(keys)) if j == i or keys[j] != keys[i]]
        total += logits[i, others].logsumexp(0) + logits[others, i].logsumexp(0) - 2 * logits[i, i]
    return total / (2 * len(keys))


def adamw_by_hand(weights, log_scale, loss_of, settings, steps):
    """AdamW as in Loshchilov and Hutter; only matrices decay."""
    parameters = [*weights, log_scale]
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    beta1, beta2 = settings.betas
    losses = []
    for step in range(steps):
        rate = settings.learning_rate * learning_rate_factor(step, steps, settings.warmup_steps)
        loss = loss_of(weights, log_scale)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(beta1).add_((1 - beta1) * g)
                v.mul_(beta2).add_((1 - beta2) * g * g)
                if p.ndim > 1:
                    p.mul_(1 - rate * settings.weight_decay)
                step_size = (m / (1 - beta1 ** (step + 1))) / ((v / (1 - beta2 ** (step + 1))).sqrt() + settings.eps)
                p.sub_(rate * step_size)
    return losses


def test_steps_are_those_of_adamw_written_out(tmp_path):
    """Six pairs, two of which share a caption; one batch an epoch, so that the third step's rate is a cosine's."""
    settings = params(pairs=6, batch_size=6, epochs=3, warmup_steps=1, eps=1e-3, scale=5.0, seed=3)
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(6, N, D_v)).astype(np.float16)
    captions, keys = rng.normal(size=(5, D)).astype(np.float16), [0, 1, 2, 1, 3, 4]
    embedder, history = train_on(patches, texts_of(captions, keys, tmp_path), settings)

    torch.manual_seed(3)
    start = VisionEmbedder(D_v, D)
    names = ["main.0.weight", "main.0.bias", "main.2.weight", "main.2.bias", "skip.weight", "skip.bias"]
    weights = [start.get_parameter(name).detach().double().requires_grad_() for name in names]
    log_scale = torch.tensor(math.log(1 / 0.07), dtype=torch.float64, requires_grad=True)
    tokens, text = torch.from_numpy(patches).double(), torch.from_numpy(captions[keys]).double()
    losses = adamw_by_hand(
        weights, log_scale, lambda w, s: plain_loss(w, s, tokens, text, keys, 5.0), settings, steps=3
    )
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    for name, expected in zip(names, weights, strict=True):
        moved = (expected.float() - start.get_parameter(name)).abs().max()
        found = embedder.get_parameter(name)
        assert moved > 1e-3, name
        torch.testing.assert_close(found, expected.detach().float(), atol=2e-5, rtol=1e-4)
    assert history[-1]["logit_scale"] == pytest.approx(log_scale.exp().item(), rel=1e-4)
    assert [row["step"] for row in history] == [1, 2, 3] and [row["epoch"] for row in history] == [1, 2, 3]


def test_same_texts_are_negatives_only_if_they_are_not_masked():
    losses = [
        loss_of(torch.zeros(2, 2), torch.zeros(2), 1.0, params(mask_same_text=masked)) for masked in (True, False)
    ]
    assert losses == [0, pytest.approx(math.log(2))]


def first_gradients(source, settings):
    run = Run(source, settings)
    loss, phi = batch_loss(run.embedder, run.logit_scale(), next(source.batches(0)), settings)
    loss.backward()
    return loss, phi, {name: parameter.grad for name, parameter in run.embedder.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"pooling": "matched_only"}, {"text_embedder": "linear", "scoring": "dot"}])
@pytest.mark.parametrize("parts", [2, 5, 32])
def test_a_batch_in_parts_has_the_whole_batchs_gradients(parts, changes, tmp_path):
    """Its phi too, also of some of the images, as a process has them, in more parts than there are images."""
    pairs = random_pairs(tmp_path)
    whole, in_parts = (params(accumulate=number, **changes) for number in (1, parts))
    loss, phi, expected = first_gradients(CachedPairs(*pairs, whole), whole)
    found_loss, found_phi, found = first_gradients(CachedPairs(*pairs, in_parts), in_parts)
    torch.testing.assert_close((found_loss, found_phi), (loss, phi))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)
    torch.manual_seed(0)
    embedder, tokens, texts = VisionEmbedder(D_v, D), torch.randn(8, N, D_v), torch.randn(8, D)
    some = phi_of(embedder, tokens[4:7], texts, in_parts, first_text=4)
    torch.testing.assert_close(some, phi_of(embedder, tokens, texts, whole)[4:7])


@pytest.mark.parametrize("name", ["precision", "products"])
def test_bfloat16_is_close_and_the_losses_are_float32(name, tmp_path, bfloat16_everywhere):
    pairs = random_pairs(tmp_path)
    exact, rough = params(), params(**{name: "bfloat16"})
    loss, phi, _ = first_gradients(CachedPairs(*pairs, exact), exact)
    rough_loss, rough_phi, gradients = first_gradients(CachedPairs(*pairs, rough), rough)
    assert rough_loss.dtype == rough_phi.dtype == gradients["skip.weight"].dtype == torch.float32
    assert 0 < (rough_phi - phi).abs().max() < 0.02 and rough_loss.item() == pytest.approx(loss.item(), rel=0.02)


@pytest.mark.parametrize(
    "changes", [{"activation": "sigmoid", "scale": 3.0}, {"scoring": "dot", "scale": 0.5}], ids=str
)
def test_phi_is_the_models_with_the_settings_options(changes, tmp_path):
    settings = params(**changes)
    source = CachedPairs(*random_pairs(tmp_path), settings)
    tokens, text, _ = next(source.batches(0))
    expected = compatibility(Run(source, settings).embedder(tokens), text, **changes)
    assert torch.equal(first_gradients(source, settings)[1], expected)


def test_compiling_is_left_to_torch(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    pairs = random_pairs(tmp_path)
    weights = [train_on(*pairs, params(compile=choice))[0].skip.weight for choice in (True, False)]
    assert len(compiled) == 1 and torch.equal(*weights)


# --- the optimizer ---


def test_learning_rate_by_hand():
    factors = [learning_rate_factor(step, 14, 4) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.5)  # half way through the ten steps after the warm-up
    assert factors[14] == pytest.approx(0.0, abs=1e-12)
    assert factors[6] == pytest.approx((1 + math.cos(0.2 * math.pi)) / 2)
    assert all(a > b for a, b in zip(factors[4:], factors[5:], strict=False))
    assert [learning_rate_factor(step, 2, 0) for step in (0, 1)] == [1.0, pytest.approx(0.5)]
    # After the last step torch's schedule asks for one more rate.
    assert [learning_rate_factor(step, 4, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_weight_decay_is_for_matrices_only():
    embedder = VisionEmbedder(D_v, D)
    decayed, others = parameter_groups(embedder, LogitScale(), 0.2)
    assert decayed["weight_decay"] == 0.2 and others["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in decayed["params"]] == [(D, D_v), (D, D), (D, D_v)]
    assert [tuple(p.shape) for p in others["params"]] == [(D,), (D,), (D,), ()]


def optimized(kind, embedder, steps: int, state: dict | None = None):
    """An optimizer after steps with random gradients, those of its first step the same each time."""
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
    optimizer, expected = optimized(AdamW, ours, 12), optimized(torch.optim.AdamW, theirs, 12).state_dict()
    state = optimizer.state_dict()
    assert not torch.equal(ours.skip.weight, start.skip.weight) and ours.skip.weight.is_leaf
    assert not any(moment["exp_avg"].requires_grad for moment in optimizer.state.values())
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert state["param_groups"] == expected["param_groups"]
    optimized(AdamW, ours, 3, copy.deepcopy(state))
    optimized(torch.optim.AdamW, theirs, 3, copy.deepcopy(state))
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_training_does_without_torchs_compiler_and_without_open_clip():
    """Both take seconds to import, for which the ablation points would wait one after another."""
    code = """
import sys
from types import SimpleNamespace
import torch
from pacl.runtime.config import load_params
from pacl.training.__main__ import train
settings = load_params("mini", "train").train.model_copy(update={"pairs": 8, "batch_size": 4, "epochs": 2})
batch = torch.randn(4, 3, 5), torch.randn(4, 6), torch.arange(4)
source = SimpleNamespace(width=5, text_width=6, steps=2, batches=lambda *_: iter([batch, batch]))
_, history = train(source, settings)
print(len(history), "torch._dynamo" in sys.modules, "open_clip" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["2", "False", "False"]


# --- learning ---


def test_separable_pairs_are_learned_and_a_text_head_with_them(tmp_path):
    """Texts that hardly differ except in one direction: a trained head can stretch the others, a frozen one can't."""
    patches, texts = separable_pairs(tmp_path)
    _, history = train_on(patches, texts, params(epochs=100), validation=(patches, texts))
    assert history[0]["validation_retrieval"] < 0.5 and history[-1]["validation_retrieval"] == 1.0
    assert history[-1]["loss"] < 0.1 < history[0]["loss"]
    texts.caption_features[:, 1:] *= np.float16(0.02)
    frozen, linear = (train_on(patches, texts, params(epochs=60, text_embedder=h))[1] for h in ("frozen", "linear"))
    assert linear[-1]["loss"] < frozen[-1]["loss"] - 0.1


def test_a_fixed_logit_scale_stays_as_it_is_and_a_learned_one_has_a_maximum(tmp_path):
    pairs, short = separable_pairs(tmp_path), dict(epochs=3, pairs=8, batch_size=8)
    learned, ten, again = (train_on(*pairs, params(**short, logit_scale=scale)) for scale in ("learned", 10.0, 10))
    assert all(row["logit_scale"] == pytest.approx(10) for row in ten[1]) and learned[1][-1]["logit_scale"] != 10
    assert same(ten[0].state_dict(), again[0].state_dict())
    assert not same(ten[0].state_dict(), learned[0].state_dict())
    settings = params(**short, max_logit_scale=15.0)
    assert Run(CachedPairs(*pairs, settings), settings).logit_scale.max == 15.0


# --- validation ---


@pytest.mark.parametrize("size, of_batch, starts", [(4, 4, [0, 4]), (16, 10, [0])], ids=["full batches", "one batch"])
def test_validation_by_hand(tmp_path, size, of_batch, starts):
    """Ten pairs: two full batches of four, or one that is smaller than a batch."""
    patches, texts = random_pairs(tmp_path, 10)
    torch.manual_seed(0)
    embedder = VisionEmbedder(D_v, D)
    settings = params(batch_size=size, pairs=size, noun_share=1.0)
    found = validate(embedder, torch.tensor(10.0), (patches, texts), settings)
    tokens, text = torch.from_numpy(patches).float(), torch.from_numpy(texts.caption_features).float()
    losses, hits, labels = [], [], torch.arange(of_batch)
    for start in starts:
        part = slice(start, start + of_batch)
        phi = compatibility(embedder(tokens[part]), text[part]).detach()
        losses.append((F.cross_entropy(10 * phi, labels) + F.cross_entropy(10 * phi.T, labels)).item() / 2)
        hits.append((phi.argmax(1) == labels).float().mean().item())
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["validation_retrieval"] == pytest.approx(np.mean(hits))


def test_best_is_the_epoch_with_the_lowest_validation_loss(tmp_path):
    """The validation pairs have nothing in common with the training pairs, so learning makes them worse in the end."""
    patches, texts = random_pairs(tmp_path / "train")
    held_out = random_pairs(tmp_path / "held out", seed=1)
    settings = params(epochs=30, learning_rate=3e-2, batch_size=16, warmup_steps=8)
    embedder, history = train_on(patches, texts, settings, validation=held_out, folder=tmp_path / "mini")
    lowest = int(np.argmin([row["validation_loss"] for row in history]))
    assert 0 < lowest < len(history) - 1
    (best, about_best), (last, about_last) = (load_embedder(tmp_path / "mini" / name) for name in ("best", "last"))
    assert about_best["history"] == history[: lowest + 1] and about_last["history"] == history
    assert about_last["train"] == settings.model_dump(mode="json")
    again = validate(best, torch.tensor(history[lowest]["logit_scale"]), held_out, settings)
    assert again["validation_loss"] == pytest.approx(history[lowest]["validation_loss"], rel=1e-5)
    assert torch.equal(last.skip.weight, embedder.skip.weight)
    assert not torch.equal(best.skip.weight, embedder.skip.weight)
    train_on(patches, texts, params(epochs=2), folder=tmp_path / "without validation")
    assert len(load_embedder(tmp_path / "without validation/best")[1]["history"]) == 2, "the last epoch is the best"


# --- errors ---


@pytest.mark.parametrize("image", [1, 6])
def test_bad_features_stop_training_and_name_the_step(image, tmp_path):
    patches, texts = random_pairs(tmp_path, 8)
    patches[image] = np.nan
    batches = np.sort(np.random.default_rng(0).permutation(8).reshape(4, 2))  # the first epoch's
    ((batch, place),) = np.argwhere(batches == image)
    message = (
        rf"the loss is nan at step {batch} \(epoch 1, batch {batch + 1}\): the tokens of its pairs {place} "
        r"\(counted from 0\) are not numbers; look for bad features."
    )
    with pytest.raises(FloatingPointError, match=message):
        train_on(patches, texts, params(pairs=8, batch_size=2))


def test_bad_texts_and_held_out_features_are_named(tmp_path):
    settings, (patches, texts) = params(pairs=8, batch_size=4), random_pairs(tmp_path / "data", 8)
    good, bad = random_pairs(tmp_path / "good", 8), random_pairs(tmp_path / "bad", 8)
    texts.caption_features[:] = np.inf
    with pytest.raises(FloatingPointError, match=r"batch 1\): the texts of its pairs 0, 1, 2, 3 \(counted from 0\)"):
        train_on(patches, texts, settings)
    bad[0][5] = np.nan
    with pytest.raises(FloatingPointError, match="the validation loss is nan in batch 2: look for bad features"):
        train_on(*good, settings, validation=bad)
    tokens = torch.zeros(15, N, D_v)
    tokens[3:, 0, 0] = np.inf
    reason = explain_bad_loss([tokens, torch.zeros(15, D)])
    assert "pairs 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 (counted from 0) are not numbers" in reason, "ten at most"
    assert "lower train.learning_rate" in explain_bad_loss([torch.zeros(2, N, D_v), torch.zeros(2, D)])


def test_weights_that_are_not_numbers_are_never_saved(tmp_path):
    settings = params()
    run = Run(CachedPairs(*random_pairs(tmp_path), settings), settings)
    for weight in (run.logit_scale.log_scale.data, run.embedder.skip.bias.data):
        run.state()
        before = weight.clone()
        weight.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="a weight is not a number after step 0: lower train.learning_rat"):
            run.state()
        weight.copy_(before)


def test_a_source_that_ends_early_or_never_is_not_trusted(tmp_path):
    settings = params(pairs=20, batch_size=5)
    source = CachedPairs(*random_pairs(tmp_path, 20), settings)
    whole = list(source.batches(0))
    source.batches = lambda *_: iter(whole[:3])
    with pytest.raises(ValueError, match="the source ended after 3 of the 4 batches of epoch 1"):
        train(source, settings)
    source.batches = lambda *_: iter(whole * 2)
    assert [row["step"] for row in train(source, settings)[1]] == [4, 8]
