"""Label maps, made tile by tile, against torch's upscaling of everything; background rules against numbers by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from pacl import label_maps as labels_module
from pacl.label_maps import best_phrase, entropy, label_maps, predict
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


@pytest.mark.parametrize("logits", [random_logits(2, M), smooth_logits(2, M), random_logits(M)])
def test_label_maps_are_the_best_classes_of_everything_upscaled(logits):
    expected = upscaled(logits)
    first, second = expected.topk(2, dim=-3).values.unbind(-3)
    assert (first - second).min() > 1e-6  # no ties
    labels = label_maps(logits, ROWS, COLUMNS, Protocol())
    assert labels.dtype == torch.int64 and labels.unique().numel() > 5
    assert torch.equal(labels, expected.argmax(-3))


def test_where_classes_tie_one_of_the_best_wins_and_the_first_where_tokens_are_pixels():
    logits = random_logits(M).mul(2).round().div(2)  # many exact ties at tokens
    logits[7] = logits[3]
    labels, expected = label_maps(logits, ROWS, COLUMNS, Protocol()), upscaled(logits)
    assert (expected.amax(0) - expected.gather(0, labels[None])[0]).max() < 1e-6
    tied = torch.isclose(expected, expected.amax(0), atol=1e-6, rtol=0).sum(0) > 1
    assert tied.any() and torch.equal(labels[~tied], expected.argmax(0)[~tied])
    assert torch.equal(label_maps(logits, torch.eye(h), torch.eye(w), Protocol()), logits.argmax(0))


@pytest.mark.parametrize("protocol", RULES, ids=lambda protocol: protocol.background_rule)
@pytest.mark.parametrize("phrases", [None, [0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6], [2, 0, 1, 1, 0, 2, 3, 3, 4, 5, 6, 6]])
def test_tiles_follow_the_rules_as_everything_at_once_does(protocol, phrases):
    logits = random_logits(2, M, seed=3)
    phrase_index = None if phrases is None else torch.tensor(phrases)
    probabilities = (3.0 * upscaled(logits)).softmax(1)  # over phrases
    index = torch.arange(M) if phrase_index is None else phrase_index
    of_classes = torch.stack([probabilities[:, index == k].amax(1) for k in range(int(index.max()) + 1)], dim=1)
    shares = of_classes / of_classes.sum(1, keepdim=True)
    expected = of_classes.argmax(1)
    uncertain = {
        "none": torch.zeros_like(expected, dtype=torch.bool),
        "entropy": -(shares * shares.log()).sum(1) > 1.5,
        "probability": of_classes.amax(1) < 0.4,
    }[protocol.background_rule]
    for listed in (False, True):
        moved = expected + (protocol.background_rule != "none" and not listed)
        got = label_maps(logits, ROWS, COLUMNS, protocol, phrase_index=phrase_index, background_listed=listed)
        assert torch.equal(got, moved.masked_fill(uncertain, 0))
    assert protocol.background_rule == "none" or 0.1 < uncertain.double().mean() < 0.9


def test_pixels_may_use_tokens_of_several_windows():
    """Averages of two windows' tokens, [H, 2 h]: a row of weights adds up to 1, with four that are not zero."""
    rows = torch.zeros(H, 2 * h)
    rows[:30, :h] = interpolation_matrix(30, h, 1, 1, h)
    rows[20:, h:] = interpolation_matrix(30, h, 1, 1, h)
    rows[20:30] /= 2
    logits = torch.cat([random_logits(M), random_logits(M, seed=1)], dim=1)  # [M, 2 h, w]
    labels = label_maps(logits, rows, COLUMNS, Protocol())
    assert torch.equal(labels, (rows.double() @ logits @ COLUMNS.double().T).argmax(0))


@pytest.mark.parametrize("shape", [(20, 1, 1), (3, 1, 3, 7), (1, 8, 8), (2, 3, 64, 5, 13), (150, 16, 16)])
def test_the_first_of_equal_cosines_wins_at_any_number_of_phrases_and_pixels(shape):
    """numpy's argmax is the reference; low cosines, since what a processor fills its vectors up with must not win."""
    logits = torch.randint(-60, -40, shape, generator=torch.Generator().manual_seed(0)).float()
    before = logits.clone()
    assert torch.equal(predict(logits, 1.0), torch.from_numpy(logits.numpy().argmax(-3)))
    assert torch.equal(logits, before)
    transposed = logits.mT  # pixels that don't lie side by side
    assert torch.equal(predict(transposed, 1.0), torch.from_numpy(transposed.numpy().argmax(-3)))


def test_a_tile_is_all_that_is_upscaled(monkeypatch):
    seen = []
    largest = labels_module._largest
    monkeypatch.setattr(labels_module, "_largest", lambda scores: seen.append(scores.shape) or largest(scores))
    label_maps(random_logits(2, M), ROWS, COLUMNS, Protocol())
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
    """Of so many phrases the shortest row that is taken at once fills more than a tile."""
    monkeypatch.undo()
    logits = torch.randn(3000, 2, 300, generator=torch.Generator().manual_seed(0))
    assert labels_module._tile(logits, 2, 300) == (1, 1, 256)
    assert torch.equal(label_maps(logits, torch.eye(2), torch.eye(300), Protocol()), logits.argmax(0))


def test_several_images_in_a_tile_are_labelled_as_each_alone(monkeypatch):
    monkeypatch.setattr(labels_module, "_tile", lambda *_: (2, 20, 40))
    logits = random_logits(5, M)
    together = label_maps(logits, ROWS, COLUMNS, RULES[1])
    assert torch.equal(together, torch.stack([label_maps(one, ROWS, COLUMNS, RULES[1]) for one in logits]))


def winner_by_five_hundredths():
    logits = torch.full((20, 1, 1), 0.2, dtype=torch.double)
    logits[7] += 0.05
    return logits


@pytest.mark.parametrize("logit_scale, nats", [(1.0, 2.995), (40.0, 2.713), (100.0, 0.688)])
def test_entropy_rule_only_makes_sense_with_scaled_logits(logit_scale, nats):
    """The paper's threshold of 1.5 nats calls a clear winner background at scales 1 and 40, and not at 100."""
    winner = math.exp(0.05 * logit_scale) / (math.exp(0.05 * logit_scale) + 19)
    other = (1 - winner) / 19
    assert -winner * math.log(winner) - 19 * other * math.log(other) == pytest.approx(nats, abs=1e-3)
    logits = winner_by_five_hundredths()
    assert predict(logits, logit_scale, "entropy", nats + 0.002).item() == 8  # class 7, after background
    assert predict(logits, logit_scale, "entropy", nats - 0.002).item() == 0
    assert predict(logits, logit_scale, "entropy", 1.5).item() == (8 if logit_scale == 100 else 0)


def test_probability_rule_and_a_background_among_the_classes():
    logits = torch.tensor([0.1, 0.3, 0.2])[:, None, None]  # probabilities at scale 10: 0.09, 0.665, 0.245
    assert predict(logits, 10.0).item() == 1
    assert predict(logits, 10.0, "probability", 0.6).item() == 2
    assert predict(logits, 10.0, "probability", 0.7).item() == 0
    assert predict(logits, 10.0, "probability", 0.6, background_listed=True).item() == 1
    assert predict(logits, 10.0, "probability", 0.7, background_listed=True).item() == 0


def test_a_threshold_that_is_just_met_makes_no_background():
    """More nats than it, or a smaller probability, do: one class is certain, two alike have a half each."""
    assert predict(torch.zeros(1, 1, 1), 10.0, "entropy", 0.0).item() == 1
    assert predict(torch.zeros(2, 1, 1), 10.0, "probability", 0.5).item() == 1


def test_cosines_of_half_precision_are_scaled_in_float32():
    logits = (0.3 * torch.rand(5, 20, 20, generator=torch.Generator().manual_seed(0))).bfloat16()
    for rule, threshold in (("entropy", 0.5), ("probability", 0.7)):
        expected = predict(logits.float(), 40.0, rule, threshold)
        assert torch.equal(predict(logits, 40.0, rule, threshold), expected) and 0 < (expected == 0).sum() < 400


def test_a_class_is_as_likely_as_its_best_phrase():
    """The softmax is over phrases: a second phrase as good takes half of the probability away."""
    logits = torch.tensor([0.1, 0.3, 0.3, 0.0])[:, None, None]
    phrase_index = torch.tensor([0, 1, 1, 2])
    assert predict(logits, 100.0, phrase_index=phrase_index).item() == 1
    assert predict(logits, 100.0, "probability", 0.49, phrase_index=phrase_index).item() == 2
    assert predict(logits, 100.0, "probability", 0.51, phrase_index=phrase_index).item() == 0
    # entropy is of the distribution over classes, here all but certain
    assert predict(logits, 100.0, "entropy", 0.01, phrase_index=phrase_index).item() == 2


def test_entropy_of_even_odds_and_of_certainty():
    below_largest = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -100.0, -100.0, -100.0]])
    torch.testing.assert_close(entropy(below_largest, dim=-1), torch.tensor([math.log(4), 0.0]))


def test_best_phrase_by_hand():
    scores = torch.tensor([[0.1, 0.4, 0.3]])
    assert best_phrase(scores, None, -1) is scores
    assert torch.equal(best_phrase(scores, torch.arange(3), -1), scores)
    assert torch.equal(best_phrase(scores, torch.tensor([2, 1, 0]), -1), scores.flip(-1))
    assert torch.equal(best_phrase(scores, torch.tensor([0, 0, 1]), -1), torch.tensor([[0.4, 0.3]]))


def test_unknown_rules_and_wrong_phrases_are_named():
    with pytest.raises(ValueError, match="background must be one of"):
        predict(torch.rand(2, 1, 1), 1.0, "entropic")
    with pytest.raises(ValueError, match="2 phrases, but there are scores of 3"):
        predict(torch.rand(3, 1, 1), 1.0, phrase_index=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="4 phrases, but there are scores of 3"):
        best_phrase(torch.rand(3, 1, 1), torch.tensor([0, 1, 1, 0]), -3)
