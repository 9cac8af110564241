"""Label maps, made tile by tile, against torch's upscaling of everything; background rules against numbers by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pacl import label_maps as labels_module
from pacl.clip.texts import ClassTexts
from pacl.label_maps import TokenLogits, best_phrase, entropy, idle_rule, label_maps, label_maps_by, predict
from pacl.runtime.params import Protocol
from pacl.segment import interpolation_matrix

H, W, h, w, M = 50, 70, 4, 5, 12  # pixels, tokens, phrases
ROWS, COLUMNS = interpolation_matrix(H, h, 1, 1, h), interpolation_matrix(W, w, 1, 1, w)
RULES = [
    Protocol(logit_scale=3.0),
    Protocol(logit_scale=3.0, background_rule="entropy", background_threshold=1.5),
    Protocol(logit_scale=3.0, background_rule="probability", background_threshold=0.4),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(labels_module, "_tile", lambda *_: (1, 16, 16))  # of 50 x 70 pixels 13 x 14, the last 11 high


def random_logits(*shape, seed=0):
    return torch.randn(*shape, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def smooth_logits(*shape):
    """One class fades into the next from left to right, as over a real image."""
    across = torch.linspace(0, 1, M)[:, None, None] - torch.linspace(0, 1, w)
    return (random_logits(*shape) * 0.01 - across.square().expand(M, h, w)).double()


def upscaled(logits):
    """All of them, by torch, in double precision: [..., M, H, W]."""
    batch = logits.reshape(-1, *logits.shape[-3:])
    return F.interpolate(batch, size=(H, W), mode="bilinear").reshape(*logits.shape[:-2], H, W)


def labelled(logits, protocol=RULES[0], texts=None, rows=ROWS, columns=COLUMNS):
    return label_maps(TokenLogits(logits, rows, columns), texts, protocol)


def texts_of(phrases, listed=False):
    return ClassTexts(torch.empty(len(phrases), 1), torch.tensor(phrases), listed)


@pytest.mark.parametrize("logits", [random_logits(2, M), smooth_logits(2, M), random_logits(M)])
def test_label_maps_are_the_best_classes_of_everything_upscaled(logits):
    expected = upscaled(logits)
    first, second = expected.topk(2, dim=-3).values.unbind(-3)
    assert (first - second).min() > 1e-6  # no ties
    labels = labelled(logits)
    assert labels.dtype == torch.int64 and labels.unique().numel() > 5
    assert torch.equal(labels, expected.argmax(-3))


def test_where_classes_tie_one_of_the_best_wins_and_the_first_where_tokens_are_pixels():
    logits = random_logits(M).mul(2).round().div(2)  # many exact ties at tokens
    logits[7] = logits[3]
    labels, expected = labelled(logits), upscaled(logits)
    assert (expected.amax(0) - expected.gather(0, labels[None])[0]).max() < 1e-6
    tied = torch.isclose(expected, expected.amax(0), atol=1e-6, rtol=0).sum(0) > 1
    assert tied.any() and torch.equal(labels[~tied], expected.argmax(0)[~tied])
    assert torch.equal(labelled(logits, rows=torch.eye(h), columns=torch.eye(w)), logits.argmax(0))


@pytest.mark.parametrize("protocol", RULES, ids=lambda protocol: protocol.background_rule)
@pytest.mark.parametrize("phrases", [None, [0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6], [2, 0, 1, 1, 0, 2, 3, 3, 4, 5, 6, 6]])
def test_tiles_follow_the_rules_as_everything_at_once_does(protocol, phrases):
    logits, phrases = random_logits(2, M, seed=3), phrases or list(range(M))
    probabilities = (3.0 * upscaled(logits)).softmax(1)  # over phrases
    index = torch.tensor(phrases)
    of_classes = torch.stack([probabilities[:, index == k].amax(1) for k in range(max(phrases) + 1)], dim=1)
    shares = of_classes / of_classes.sum(1, keepdim=True)
    expected = of_classes.argmax(1)
    uncertain = {
        "none": torch.zeros_like(expected, dtype=torch.bool),
        "entropy": -(shares * shares.log()).sum(1) > 1.5,
        "probability": of_classes.amax(1) < 0.4,
    }[protocol.background_rule]
    for listed in (False, True):
        moved = expected + (protocol.background_rule != "none" and not listed)
        assert torch.equal(labelled(logits, protocol, texts_of(phrases, listed)), moved.masked_fill(uncertain, 0))
    assert protocol.background_rule == "none" or 0.1 < uncertain.double().mean() < 0.9


def test_pixels_may_use_tokens_of_several_windows():
    """Averages of two windows' tokens, [H, 2 h]: a row of weights adds up to 1, with four that are not zero."""
    rows = torch.zeros(H, 2 * h)
    rows[:30, :h] = interpolation_matrix(30, h, 1, 1, h)
    rows[20:, h:] = interpolation_matrix(30, h, 1, 1, h)
    rows[20:30] /= 2
    logits = torch.cat([random_logits(M), random_logits(M, seed=1)], dim=1)  # [M, 2 h, w]
    assert torch.equal(labelled(logits, rows=rows), (rows.double() @ logits @ COLUMNS.double().T).argmax(0))


@pytest.mark.parametrize("shape", [(20, 1, 1), (3, 1, 3, 7), (2, 3, 64, 5, 13), (150, 16, 16)])
def test_the_first_of_equal_cosines_wins_at_any_number_of_phrases_and_pixels(shape):
    """numpy's argmax is the reference; low cosines, because what a processor pads its vectors with must not win."""
    logits = torch.randint(-60, -40, shape, generator=torch.Generator().manual_seed(0)).float()
    before = logits.clone()
    for view in (logits, logits.mT):  # the second's pixels are not contiguous
        assert torch.equal(predict(view, None, Protocol()), torch.from_numpy(view.numpy().argmax(-3)))
    assert torch.equal(logits, before)


def test_a_tile_is_all_that_is_upscaled(monkeypatch):
    seen = []
    largest = labels_module._largest
    monkeypatch.setattr(labels_module, "_largest", lambda scores: seen.append(scores.shape) or largest(scores))
    labelled(random_logits(2, M))
    assert max(shape.numel() for shape in seen) == M * 13 * 14
    assert sum(shape.numel() for shape in seen) == 2 * M * H * W


TILED = [(20, 64, 64, 6), (20, 128, 128, 1), (150, 512, 683, 1), (1000, 9, 9999, 1)]


@pytest.mark.parametrize("M, H, W, images", TILED)
def test_a_tile_holds_whole_small_images_or_a_part_of_a_large_one(monkeypatch, M, H, W, images):
    monkeypatch.undo()
    found, height, width = labels_module._tile(torch.empty(M, 2, 2), H, W)
    assert found == images and height <= H and width <= W
    assert 4 * M * found * height * width <= labels_module.CPU_TILE_BYTES
    assert (height, width) == (H, W) or 8 * M * height * width > labels_module.CPU_TILE_BYTES


def test_thousands_of_phrases_are_labelled_a_row_at_a_time(monkeypatch):
    """With so many phrases the shortest row that is taken at once fills more than a tile."""
    monkeypatch.undo()
    logits = torch.randn(3000, 2, 300, generator=torch.Generator().manual_seed(0))
    assert labels_module._tile(logits, 2, 300) == (1, 1, 256)
    assert torch.equal(labelled(logits, rows=torch.eye(2), columns=torch.eye(300)), logits.argmax(0))


def test_several_images_in_a_tile_are_labelled_as_each_alone(monkeypatch):
    monkeypatch.setattr(labels_module, "_tile", lambda *_: (2, 20, 40))
    logits = random_logits(5, M)
    assert torch.equal(labelled(logits, RULES[1]), torch.stack([labelled(one, RULES[1]) for one in logits]))


def label_of(cosines, logit_scale, rule, threshold, texts=None):
    """What one pixel becomes."""
    protocol = Protocol(logit_scale=logit_scale, background_rule=rule, background_threshold=threshold)
    return predict(torch.as_tensor(cosines)[:, None, None], texts, protocol).item()


@pytest.mark.parametrize("logit_scale, nats", [(1.0, 2.995), (40.0, 2.713), (100.0, 0.688)])
def test_entropy_rule_only_makes_sense_with_scaled_logits(logit_scale, nats):
    """The paper's threshold of 1.5 nats calls a clear winner background at scales 1 and 40, and not at 100."""
    shares = np.exp(logit_scale * np.array([0.05] + 19 * [0.0]))
    shares /= shares.sum()
    assert -(shares * np.log(shares)).sum() == pytest.approx(nats, abs=1e-3)
    cosines = [0.2] * 7 + [0.25] + [0.2] * 12
    assert label_of(cosines, logit_scale, "entropy", nats + 0.002) == 8  # class 7, after background
    assert label_of(cosines, logit_scale, "entropy", nats - 0.002) == 0
    assert label_of(cosines, logit_scale, "entropy", 1.5) == (8 if logit_scale == 100 else 0)


def test_probability_rule_and_a_background_among_the_classes():
    cosines = [0.1, 0.3, 0.2]  # probabilities at scale 10: 0.09, 0.665, 0.245
    listed = texts_of([0, 1, 2], listed=True)
    assert label_of(cosines, 10.0, "none", 0.0) == 1
    assert [label_of(cosines, 10.0, "probability", p) for p in (0.6, 0.7)] == [2, 0]
    assert [label_of(cosines, 10.0, "probability", p, listed) for p in (0.6, 0.7)] == [1, 0]


def test_a_threshold_that_is_just_met_makes_no_background():
    """More nats than it, or a smaller probability, do: one class is certain, two alike have a half each."""
    assert label_of([0.0], 10.0, "entropy", 0.0) == 1
    assert label_of([0.0, 0.0], 10.0, "probability", 0.5) == 1


@pytest.mark.parametrize("rule, threshold", [("entropy", 0.5), ("probability", 0.7)])
def test_cosines_of_half_precision_are_scaled_in_float32(rule, threshold):
    logits = (0.3 * torch.rand(5, 20, 20, generator=torch.Generator().manual_seed(0))).bfloat16()
    protocol = Protocol(logit_scale=40.0, background_rule=rule, background_threshold=threshold)
    expected = predict(logits.float(), None, protocol)
    assert torch.equal(predict(logits, None, protocol), expected) and 0 < (expected == 0).sum() < 400


def test_a_class_is_as_likely_as_its_best_phrase():
    """The softmax is over phrases: a second phrase as good takes half of the probability away."""
    cosines, texts = [0.1, 0.3, 0.3, 0.0], texts_of([0, 1, 1, 2])
    assert label_of(cosines, 100.0, "none", 0.0, texts) == 1
    assert [label_of(cosines, 100.0, "probability", p, texts) for p in (0.49, 0.51)] == [2, 0]
    # entropy is of the distribution over classes, here all but certain
    assert label_of(cosines, 100.0, "entropy", 0.01, texts) == 2


def test_entropy_of_even_odds_and_of_certainty():
    below_largest = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -100.0, -100.0, -100.0]])
    torch.testing.assert_close(entropy(below_largest, dim=-1), torch.tensor([math.log(4), 0.0]))


def test_best_phrase_by_hand():
    scores = torch.tensor([[0.1, 0.4, 0.3]])
    assert best_phrase(scores, None, -1) is scores
    for index, expected in (([0, 1, 2], [0.1, 0.4, 0.3]), ([2, 1, 0], [0.3, 0.4, 0.1]), ([0, 0, 1], [0.4, 0.3])):
        assert torch.equal(best_phrase(scores, torch.tensor(index), -1), torch.tensor([expected]))


def test_phrases_of_another_number_are_named():
    with pytest.raises(ValueError, match="2 phrases, but there are scores for 3"):
        predict(torch.rand(3, 1, 1), texts_of([0, 1]), Protocol())
    with pytest.raises(ValueError, match="4 phrases, but there are scores for 3"):
        best_phrase(torch.rand(3, 1, 1), torch.tensor([0, 1, 1, 0]), -3)


@pytest.mark.parametrize("rule, names, edge", [
    ("probability", ["a", "b, c", "d"], 1 / 4),  # over phrases
    ("probability", ["a, b"], 1 / 2),
    ("entropy", ["a", "b, c", "d"], math.log(3)),  # over classes
    ("entropy", ["a", "b"], math.log(2)),
])  # fmt: skip
def test_a_rule_applies_from_the_edge_on_that_equal_cosines_give(rule, names, edge):
    """Equal cosines are the least certain ones; the rule's own prediction there decides."""
    phrases = [k for k, name in enumerate(names) for _ in name.split(",")]
    texts, logits = texts_of(phrases), torch.zeros(len(phrases), 1, 1)
    for threshold in (0.999 * edge, 1.001 * edge):
        protocol = Protocol(background_rule=rule, background_threshold=threshold)
        applies = bool(predict(logits, texts, protocol) == 0)
        assert applies == ((threshold > edge) == (rule == "probability"))
        sentence = idle_rule(protocol, names)
        assert bool(sentence) != applies
        if sentence:  # whose remedy is one
            nearest = float(sentence.split()[-1])
            assert not idle_rule(protocol.model_copy(update={"background_threshold": nearest}), names)


def test_a_single_text_is_never_background_and_no_rule_needs_no_remedy():
    assert "name other things" in idle_rule(Protocol(background_rule="entropy"), ["sea, lake"])
    assert "name other things" in idle_rule(Protocol(background_rule="probability", background_threshold=1), ["sea"])
    assert idle_rule(Protocol(), ["sea"]) == ""


def test_several_protocols_together_have_the_label_maps_of_each_alone():
    tokens, texts = TokenLogits(random_logits(2, M), ROWS, COLUMNS), ClassTexts(None, torch.arange(M) // 3)
    protocols = [
        Protocol(background_rule=rule, background_threshold=threshold, logit_scale=scale)
        for rule, threshold in (("none", 0.0), ("entropy", 0.8), ("probability", 0.5))
        for scale in (1.0, 10.0)
    ]
    together = label_maps_by(tokens, texts, protocols)
    assert together.shape[0] == 6 and len({one.sum().item() for one in together}) > 3
    assert all(
        torch.equal(one, label_maps(tokens, texts, protocol)) for one, protocol in zip(together, protocols, strict=True)
    )
