"""Training the embedder: steps against AdamW written out, learning, and checkpoints."""

import hashlib
import json
import math
import re
import runpy
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.small_training import B, D, D_v, N, params, random_pairs, texts_of
from safetensors.torch import load, save
from torch.nn import functional as F

from pacl.checkpoints import load_embedder, save_embedder
from pacl.clip import load_clip
from pacl.clip.features import Texts, text_features, text_table
from pacl.model import VisionEmbedder, compatibility
from pacl.training.cached import CachedPairs
from pacl.training.train import Run, batch_loss, blame, learning_rate_factor, phi_of, train, validate


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


def test_same_texts_are_negatives_only_if_they_are_not_masked(tmp_path):
    patches, _ = random_pairs(tmp_path / "unused", 4)
    texts = texts_of(np.random.default_rng(0).normal(size=(1, D)), [0] * 4, tmp_path)  # one caption for all
    masked, unmasked = (
        train_on(patches, texts, params(pairs=4, batch_size=4, mask_same_text=masked))[1][0]["loss"]
        for masked in (True, False)
    )
    assert masked == 0 and unmasked > 0.5


def test_only_the_first_pairs_are_trained_on(tmp_path):
    patches, texts = random_pairs(tmp_path)
    settings = params(pairs=16, batch_size=8)
    spoiled = patches.copy()
    spoiled[16:] = np.nan
    first, second = train_on(patches, texts, settings)[0], train_on(spoiled, texts, settings)[0]
    assert torch.equal(first.skip.weight, second.skip.weight)


def first_gradients(source, settings):
    run = Run(source, settings)
    loss, phi = batch_loss(run.embedder, run.logit_scale(), next(source.epoch(0)), settings)
    loss.backward()
    return loss, phi, {name: parameter.grad for name, parameter in run.embedder.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"pooling": "matched_only"}, {"text_embedder": "linear", "scoring": "dot"}])
@pytest.mark.parametrize("parts", [2, 5, 32])
def test_a_batch_in_parts_has_the_whole_batchs_gradients(parts, changes, tmp_path):
    pairs = random_pairs(tmp_path)
    whole, in_parts = (params(accumulate=number, **changes) for number in (1, parts))
    loss, phi, expected = first_gradients(CachedPairs(*pairs, whole), whole)
    found_loss, found_phi, found = first_gradients(CachedPairs(*pairs, in_parts), in_parts)
    torch.testing.assert_close((found_loss, found_phi), (loss, phi))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)


def test_bfloat16_is_close_and_the_losses_are_float32(tmp_path, bfloat16_everywhere):
    pairs = random_pairs(tmp_path)
    exact, rough = params(), params(precision="bfloat16")
    loss, phi, _ = first_gradients(CachedPairs(*pairs, exact), exact)
    rough_loss, rough_phi, gradients = first_gradients(CachedPairs(*pairs, rough), rough)
    assert rough_loss.dtype == rough_phi.dtype == gradients["skip.weight"].dtype == torch.float32
    assert 0 < (rough_phi - phi).abs().max() < 0.02 and rough_loss.item() == pytest.approx(loss.item(), rel=0.02)


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_the_products_are_the_models(tmp_path):
    pairs = random_pairs(tmp_path)
    exact, rough = (first_gradients(CachedPairs(*pairs, s), s)[1] for s in (params(), params(products="bfloat16")))
    assert 0 < (exact - rough).abs().max() < 0.02


@pytest.mark.parametrize("pooling", ["all_pairs", "matched_only"])
@pytest.mark.parametrize("parts", [2, 5])
def test_images_in_parts_find_their_texts_whichever_is_the_first(pooling, parts, tmp_path):
    """Three images of a batch of eight, as a process has them, in more parts than there are images, too."""
    torch.manual_seed(0)
    embedder, tokens, texts = VisionEmbedder(D_v, D), torch.randn(8, N, D_v), torch.randn(8, D)
    whole = phi_of(embedder, tokens, texts, params(pooling=pooling))
    found = phi_of(embedder, tokens[4:7], texts, params(pooling=pooling, accumulate=parts), first_text=4)
    torch.testing.assert_close(found, whole[4:7])


def test_the_activation_is_the_models(tmp_path):
    pairs = random_pairs(tmp_path)
    for activation in ("softmax", "sigmoid"):
        settings = params(activation=activation, scale=3.0)
        source = CachedPairs(*pairs, settings)
        tokens, text, _ = next(source.epoch(0))
        expected = compatibility(Run(source, settings).embedder(tokens), text, scale=3.0, activation=activation)
        assert torch.equal(first_gradients(source, settings)[1], expected)


def test_compiling_is_left_to_torch(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    pairs = random_pairs(tmp_path)
    weights = [train_on(*pairs, params(compile=choice))[0].skip.weight for choice in (True, False)]
    assert len(compiled) == 1 and torch.equal(*weights)


# --- learning ---


def test_a_text_head_is_trained_and_sees_the_texts(tmp_path):
    """Texts that differ in one direction hardly: a trained head can stretch it, a frozen one cannot."""
    patches, texts = separable_pairs(tmp_path)
    texts.caption_features[:, 1:] *= np.float16(0.02)
    losses = {}
    for head in ("frozen", "linear"):
        settings = params(epochs=60, text_embedder=head)
        embedder, history = train_on(patches, texts, settings)
        losses[head] = history[-1]["loss"]
    assert losses["linear"] < losses["frozen"] - 0.1
    assert not torch.equal(embedder.text_embedder.weight, torch.eye(D))


def test_separable_pairs_are_learned_until_every_image_finds_its_caption(tmp_path):
    pairs = separable_pairs(tmp_path)
    embedder, history = train_on(*pairs, params(epochs=150), validation=pairs)
    assert history[0]["validation_retrieval"] < 0.5 and history[-1]["validation_retrieval"] == 1.0
    assert history[-1]["loss"] < 0.1 < history[0]["loss"]
    tokens, text = torch.from_numpy(pairs[0]).float(), torch.from_numpy(pairs[1].caption_features).float()
    assert torch.equal(compatibility(embedder(tokens), text).argmax(1), torch.arange(B))
    assert not embedder.training


def test_noun_prompts_are_trained_on(tmp_path):
    """With one noun for all images there is nothing to tell them apart by."""
    patches, _ = random_pairs(tmp_path / "unused")
    rng = np.random.default_rng(0)
    texts = texts_of(rng.normal(size=(B, D)), range(B), tmp_path, nouns=rng.normal(size=(1, 1, D)).astype(np.float16))
    history = {share: train_on(patches, texts, params(epochs=1, noun_share=share))[1] for share in (0.0, 1.0)}
    assert history[1.0][0]["loss"] == 0 < history[0.0][0]["loss"]


def test_equal_seeds_give_equal_weights(tmp_path):
    patches, texts = random_pairs(tmp_path)
    weights = []
    for seed in (0, 0, 1):
        torch.rand(1)  # whatever was drawn before
        weights.append(train_on(patches, texts, params(seed=seed, batch_size=8))[0].state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["skip.weight"], weights[2]["skip.weight"])


def test_the_logit_scale_stays_below_its_maximum(tmp_path):
    pairs, short = separable_pairs(tmp_path), dict(epochs=60, pairs=8, batch_size=8, learning_rate=5e-2)
    scales, free = (
        [row["logit_scale"] for row in train_on(*pairs, params(**short, max_logit_scale=most))[1]]
        for most in (15.0, 100.0)
    )
    assert max(scales) == scales[-1] == pytest.approx(15.0) and free[-1] > 16


# --- validation ---


def test_validation_by_hand(tmp_path):
    patches, texts = random_pairs(tmp_path, 10)
    torch.manual_seed(0)
    embedder = VisionEmbedder(D_v, D)
    found = validate(embedder, torch.tensor(10.0), (patches, texts), params(batch_size=4, pairs=4, noun_share=1.0))
    tokens, text = torch.from_numpy(patches).float(), torch.from_numpy(texts.caption_features).float()
    losses, hits = [], []
    for start in (0, 4):  # two whole batches
        phi = compatibility(embedder(tokens[start : start + 4]), text[start : start + 4]).detach()
        labels = torch.arange(4)
        losses.append((F.cross_entropy(10 * phi, labels) + F.cross_entropy(10 * phi.T, labels)).item() / 2)
        hits.append((phi.argmax(1) == labels).float().mean().item())
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["validation_retrieval"] == pytest.approx(np.mean(hits))


def test_fewer_validation_pairs_than_a_batch_are_one_batch(tmp_path):
    patches, texts = random_pairs(tmp_path, 5)
    embedder = VisionEmbedder(D_v, D)
    few = validate(embedder, torch.tensor(10.0), (patches, texts), params(batch_size=16, pairs=16))
    assert few == validate(embedder, torch.tensor(10.0), (patches, texts), params(batch_size=5, pairs=5))
    assert math.isfinite(few["validation_loss"])


# --- sources ---


def test_an_epoch_has_each_image_once_in_an_order_of_its_own(tmp_path):
    patches, texts = random_pairs(tmp_path, 24)
    source = CachedPairs(patches, texts, params(pairs=20, batch_size=6))
    assert (source.steps, source.width, source.text_width) == (3, D_v, D)
    epochs = [list(source.epoch(number)) for number in (0, 1, 0)]
    keys = [[batch[2].tolist() for batch in epoch] for epoch in epochs]
    assert keys[0] == keys[2] != keys[1] and keys[0] == np.sort(keys[0]).tolist()
    for epoch in keys:
        assert len({key for batch in epoch for key in batch}) == 18 and max(map(max, epoch)) < 20
    tokens, text, numbers = epochs[1][2]
    assert tokens.dtype == text.dtype == torch.float32 and numbers.dtype == torch.int64
    assert np.array_equal(tokens.numpy(), patches[numbers]) and np.array_equal(text, texts.caption_features[numbers])


def test_later_epochs_do_not_depend_on_what_was_read_before(tmp_path):
    nouns = np.random.default_rng(1).normal(size=(1, 3, D)).astype(np.float16)
    patches, _ = random_pairs(tmp_path / "unused", 20)
    texts = texts_of(np.random.default_rng(0).normal(size=(20, D)), range(20), tmp_path, nouns=nouns)
    settings = params(pairs=20, batch_size=6, noun_share=0.5)
    in_order, at_once = (CachedPairs(patches, texts, settings) for _ in range(2))
    for _ in range(3):
        next(in_order.epoch(0))  # left after one batch
        list(in_order.epoch(0))
    expected = [list(in_order.epoch(number)) for number in range(4)][3]
    for found, wanted in zip(at_once.epoch(3), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len({key for batch in expected for key in batch[2].tolist() if key < 0}) == 1  # noun prompts were drawn


def test_a_seed_gives_an_order_of_its_own(tmp_path):
    pairs = random_pairs(tmp_path, 20)
    orders = [
        [batch[2].tolist() for batch in CachedPairs(*pairs, params(pairs=20, batch_size=5, seed=seed)).epoch(0)]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


def test_an_epoch_from_a_later_batch_on_is_the_rest_of_it(tmp_path):
    source = CachedPairs(*random_pairs(tmp_path, 20), params(pairs=20, batch_size=5))
    rests = [[batch[2].tolist() for batch in source.epoch(1, start=start)] for start in range(5)]
    assert rests == [rests[0][start:] for start in range(5)] and len(rests[0]) == 4


def test_other_data_have_another_identity(tmp_path):
    def source(count=20, image=19, token=0.0, caption=0.0, noun=0.0, **numbers):
        patches = np.zeros((20, N, D_v), np.float16)
        patches[image, -1, -1] = token
        texts = texts_of(np.full((20, D), caption), range(20), tmp_path, np.full((1, 2, D), noun, np.float16))
        for name, rows in numbers.items():
            setattr(texts, name, rows)
        return CachedPairs(patches[:count], texts, params(pairs=10, batch_size=5))

    others = [dict(count=19), dict(token=1.0), dict(image=0, token=1.0), dict(caption=1.0), dict(noun=1.0)]
    others += [dict(captions=[[0]] * 20), dict(nouns=[[]] * 20)]
    identities = [source(**other).identity for other in ({}, *others)]
    assert len(set(identities)) == len(identities) and source().identity == identities[0]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_ranks_parts_are_the_whole_batch(world, tmp_path):
    source = CachedPairs(*random_pairs(tmp_path, 20), params(pairs=20, batch_size=6))
    whole = list(source.epoch(1))
    parts = zip(*(source.epoch(1, rank, world) for rank in range(world)), strict=True)
    for batch, of_ranks in zip(whole, parts, strict=True):
        for tensor, pieces in zip(batch, zip(*of_ranks, strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), tensor)


def test_a_source_that_ends_early_or_goes_on_is_not_trusted(tmp_path):
    settings = params(pairs=20, batch_size=5)
    source = CachedPairs(*random_pairs(tmp_path, 20), settings)
    whole = list(source.epoch(0))
    source.epoch = lambda *_: iter(whole[:3])
    with pytest.raises(ValueError, match="the source ended after 3 of the 4 batches of epoch 1"):
        train(source, settings)
    source.epoch = lambda *_: iter(whole * 2)
    assert [row["step"] for row in train(source, settings)[1]] == [4, 8]


def test_held_out_pairs_can_be_a_source(tmp_path):
    settings = params(pairs=20, batch_size=5)
    source = CachedPairs(*random_pairs(tmp_path / "a", 20), settings)
    held_out = CachedPairs(*random_pairs(tmp_path / "b", 20, seed=1), settings)
    torch.manual_seed(0)
    embedder = VisionEmbedder(D_v, D)
    losses = [batch_loss(embedder, torch.tensor(10.0), batch, settings)[0].item() for batch in held_out.epoch(0)]
    found = validate(embedder, torch.tensor(10.0), held_out, settings)
    assert found["validation_loss"] == pytest.approx(np.mean(losses))
    assert "validation_loss" in train(source, settings, validation=held_out)[1][0]


# --- errors ---


@pytest.mark.parametrize("image", [1, 6])
def test_bad_features_stop_training_and_name_the_step(image, tmp_path):
    patches, texts = random_pairs(tmp_path, 8)
    patches[image] = np.nan
    batches = np.sort(np.random.default_rng(0).permutation(8).reshape(4, 2))  # the first epoch's
    ((batch, place),) = np.argwhere(batches == image)
    message = (
        rf"the loss is nan at step {batch} \(epoch 1, batch {batch + 1}\): the tokens of its pairs {place} "
        r"\(counted from 0\) are no numbers; look for bad features."
    )
    with pytest.raises(FloatingPointError, match=message):
        train_on(patches, texts, params(pairs=8, batch_size=2))


def test_at_most_ten_bad_pairs_are_named():
    tokens = torch.zeros(15, N, D_v)
    tokens[3:, 0, 0] = np.inf
    assert "pairs 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 (counted from 0) are no numbers" in blame(
        [tokens, torch.zeros(15, D)]
    )


def test_an_infinite_loss_stops_training_and_validation_at_its_first_batch(tmp_path, monkeypatch):
    pairs, settings, losses = random_pairs(tmp_path, 12), params(pairs=12, batch_size=3), [0.5, math.inf, math.inf, 0.5]
    left = iter(losses)
    monkeypatch.setattr("pacl.training.train.loss_of", lambda *_: torch.tensor(next(left), requires_grad=True))
    with pytest.raises(FloatingPointError, match="the validation loss is inf in batch 2: look for bad features"):
        validate(VisionEmbedder(D_v, D), torch.tensor(10.0), pairs, settings)
    left = iter([math.inf])
    with pytest.raises(FloatingPointError, match=r"the loss is inf at step 0 .*: lower train.learning_rate"):
        train_on(*pairs, settings)


def test_a_logit_scale_that_is_no_number_is_never_kept(tmp_path):
    settings = params()
    run = Run(CachedPairs(*random_pairs(tmp_path), settings), settings)
    run.state()
    run.logit_scale.log_scale.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="a weight is no number after step 0"):
        run.state()


def test_too_few_pairs_are_an_error(tmp_path):
    patches, texts = random_pairs(tmp_path, 8)
    with pytest.raises(ValueError, match="there are 8 training pairs, but train.pairs asks for 32: prepare more"):
        train_on(patches, texts, params())


# --- checkpoints ---


def test_an_embedder_comes_back_as_it_was(tmp_path):
    for kind in ("residual", "mlp", "linear"):
        embedder = VisionEmbedder(D_v, D, kind)
        save_embedder(tmp_path / "new/one", embedder, {"train": {"scale": 10.0}})
        loaded, about = load_embedder(tmp_path / "new/one")
        tokens = torch.randn(2, N, D_v)
        assert torch.equal(loaded(tokens), embedder(tokens)) and not loaded.training
        shape = {"in_dim": D_v, "out_dim": D, "kind": kind, "text_embedder": "frozen"}
        assert about.pop("sha256") == hashlib.sha256((tmp_path / "new/one.safetensors").read_bytes()).hexdigest()
        assert about == {"embedder": shape, "train": {"scale": 10.0}}


def test_an_embedder_is_refused_by_another_clip_than_the_one_it_was_trained_on(tiny_clip, tiny_folder, tmp_path):
    """Of equal widths, so that nothing else would tell."""
    features = tmp_path / "features"
    features.mkdir()
    text_features(tiny_clip, text_table({"train": [["a cat"], ["a dog"]]}), features, "one")
    tokens = np.random.default_rng(0).normal(size=(2, N, tiny_clip.width)).astype(np.float16)
    settings = params(pairs=2, batch_size=2, epochs=1)
    train(CachedPairs(tokens, Texts(features, "train"), settings), settings, folder=tmp_path / "mini")
    best = tmp_path / "mini/best"
    _, about = load_embedder(best, load_clip("by another name", tiny_folder))
    assert about["clip"] == tiny_clip.identity and about["clip"]["tokens"] == "after_norm"
    other = load_clip("tiny", tiny_folder)
    other.model.visual.proj.data[0, 0] += 1e-3
    for clip in (other, load_clip("tiny", tiny_folder, tokens="value")):
        expected = f"{best} was trained on tokens after_norm of tiny {tiny_folder} (weights {about['clip']['weights']})"
        with pytest.raises(ValueError, match=re.escape(expected)) as refused:
            load_embedder(best, clip)
        assert f"but this is tokens {clip.tokens} of tiny" in str(refused.value)


def test_an_embedder_that_names_no_clip_is_refused_by_one_of_other_widths(tiny_clip, tmp_path):
    """Checkpoints of older versions name none."""
    save_embedder(tmp_path / "fits", VisionEmbedder(tiny_clip.width, tiny_clip.dim), {})
    load_embedder(tmp_path / "fits", tiny_clip)
    for widths in ((tiny_clip.width + 1, tiny_clip.dim), (tiny_clip.width, tiny_clip.dim + 1)):
        save_embedder(tmp_path / "other", VisionEmbedder(*widths), {})
        said = f"tokens {widths[0]} and texts {widths[1]} wide, but those of {tiny_clip.name} are 32 and 16 wide"
        with pytest.raises(ValueError, match=re.escape(said)):
            load_embedder(tmp_path / "other", tiny_clip)


def test_best_is_the_epoch_with_the_lowest_validation_loss(tmp_path):
    """The validation pairs have nothing in common with the training pairs: learning makes them worse in the end."""
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


def test_without_validation_the_last_epoch_is_the_best(tmp_path):
    train_on(*random_pairs(tmp_path / "train"), params(epochs=3), folder=tmp_path / "mini")
    (best, about), (last, _) = (load_embedder(tmp_path / "mini" / name) for name in ("best", "last"))
    assert torch.equal(best.skip.weight, last.skip.weight) and len(about["history"]) == 3


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    save_embedder(tmp_path / "best", VisionEmbedder(D_v, D), {})
    content = bytearray((tmp_path / "best.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no complete checkpoint .the weights are not those that were written.: train"):
        load_embedder(tmp_path / "best")


def test_missing_and_torn_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="best.json is missing: train first"):
        load_embedder(tmp_path / "best")
    save_embedder(tmp_path / "best", VisionEmbedder(D_v, D), {})
    (tmp_path / "best.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="best.safetensors is missing: train first"):
        load_embedder(tmp_path / "best")
    whole, about = (tmp_path / "elsewhere").read_bytes(), (tmp_path / "best.json").read_text()
    shape = json.dumps({"embedder": json.loads(about)["embedder"]})  # of an older version, without a checksum
    lacking = save({name: tensor for name, tensor in load(whole).items() if name != "skip.bias"})
    other = json.dumps({"embedder": {"in_dim": D_v + 1, "out_dim": D, "kind": "residual"}})
    for weights, description in (
        (whole[:-50], about),
        (b"", about),
        (whole, about[:20]),
        (whole, "{}"),
        (whole, "[]"),
        (whole, "[" * 100_000),
        (whole, other),
        (lacking, shape),
    ):
        (tmp_path / "best.safetensors").write_bytes(weights)
        (tmp_path / "best.json").write_text(description)
        with pytest.raises(
            ValueError, match="best.safetensors and its json are no complete checkpoint .*: train again"
        ):
            load_embedder(tmp_path / "best")
    (tmp_path / "best.safetensors").write_bytes(whole)
    for description in (about, shape):
        (tmp_path / "best.json").write_text(description)
        load_embedder(tmp_path / "best")


def test_given_weights_are_written_in_place_of_the_embedders_own(tmp_path):
    embedder, other = VisionEmbedder(D_v, D), VisionEmbedder(D_v, D)
    strided = {name: tensor.T.contiguous().T for name, tensor in other.state_dict().items() if tensor.ndim == 2}
    save_embedder(tmp_path / "best", embedder, {}, other.state_dict() | strided)
    assert torch.equal(load_embedder(tmp_path / "best")[0].skip.weight, other.skip.weight)


# --- the command line ---


def test_a_profile_whose_pairs_are_shards_is_streamed(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setitem(sys.modules, "pacl.training.streamed", SimpleNamespace(train_streamed=trained.append))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--profile", "paper"])
    (tmp_path / "data/prepared/paper").mkdir(parents=True)
    (tmp_path / "data/prepared/paper/train_shards.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy, that pacl.training.train was imported already
        runpy.run_module("pacl.training.train", run_name="__main__")
    assert trained == ["paper"]


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--profile", "mini"])
    with warnings.catch_warnings(), pytest.raises(SystemExit, match="params.yaml is neither in"):
        warnings.simplefilter("ignore", RuntimeWarning)
        runpy.run_module("pacl.training.train", run_name="__main__")
