"""What is said of the images of a batch, and in which order the images come."""

import numpy as np
import pytest

from pacl.data.pairs import Said, Subject, captioned_pairs, draw_broader, draw_texts, spread, true_texts, vocabulary

CAT = Subject(names=("tabby", "tabby cat"), broader=("cat",), true=frozenset({"tabby", "tabby cat", "cat", "A cat."}))
PHOTO = Subject(captions=("A cat.", "It sleeps."), broader=("cat",), true=frozenset({"A cat.", "It sleeps.", "cat"}))
BALL = Subject(names=("ball",), true=frozenset({"ball"}))
FORMS = [["a photo of a {}."], ["the {}.", "a {}."]]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_text_is_a_caption_or_a_name_in_a_template():
    draws = [draw_texts(rng(seed), [CAT, PHOTO], FORMS) for seed in range(400)]
    assert [{said.words[i] for said in draws} for i in (0, 1)] == [set(CAT.names), set(PHOTO.captions)]
    assert all(said.texts[1] == said.words[1] for said in draws), "captions stay as they are"
    forms = [said.texts[0].replace(said.words[0], "{}") for said in draws]
    assert set(forms) == {form for forms in FORMS for form in forms}
    assert forms.count("a photo of a {}.") / 400 == pytest.approx(1 / 2, abs=0.1), "first a list, then a template"
    assert [said.words[0] for said in draws].count("tabby") / 400 == pytest.approx(3 / 4, abs=0.1), "the usual name"
    assert all(said.rows == [0, 1] for said in draws)


def test_images_that_draw_the_same_broader_word_share_its_text():
    for seed in range(10):
        said = draw_broader(rng(seed), [BALL, CAT, PHOTO, CAT], FORMS)
        assert said.rows == [1, 2, 3] and said.words == ["cat"] * 3 and len(set(said.texts)) == 1


def test_true_texts_are_those_that_a_subject_names():
    said = Said([0, 1, 2], ["a tabby.", "It sleeps.", "the ball."], ["tabby", "It sleeps.", "ball"])
    assert true_texts(said, [CAT, PHOTO, BALL]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    said = Said([0, 2], ["a cat.", "a cat."], ["cat", "cat"])
    assert true_texts(said, [CAT, PHOTO, BALL]).tolist() == [[1, 1], [0, 0]]


def test_captioned_pairs_say_their_caption():
    pairs = captioned_pairs(np.zeros((2, 4, 4, 3), np.uint8), ["one", "two"])
    assert draw_texts(rng(), [pairs.subjects[kind] for kind in pairs.kinds], []).texts == ["one", "two"]


def test_the_vocabulary_leaves_out_rare_words_of_captions():
    photos = [Subject(captions=(f"A dog and number {i}.",)) for i in range(3)]
    assert vocabulary([CAT, *photos]) == ["a", "and", "cat", "dog", "number", "tabby", "tabby cat"]


@pytest.mark.parametrize("seed", range(2))
def test_a_batch_has_hardly_two_images_of_a_kind(seed):
    kinds = np.array([*np.repeat(np.arange(20), 12), *range(20, 36)])  # twenty classes, sixteen captioned photos
    order = spread(rng(seed), kinds)
    assert sorted(order) == list(range(len(kinds))) and not np.array_equal(order, spread(rng(seed + 9), kinds))
    batches = kinds[order][:250].reshape(-1, 10)
    assert np.mean([10 - len(set(batch)) for batch in batches]) < 0.5
    where = np.flatnonzero(order >= 240)
    assert where[0] < 80 and where[-1] > 170, "captioned photos come throughout an epoch"


def test_images_all_of_their_own_kind_come_in_any_order():
    assert np.array_equal(spread(rng(3), np.arange(50)), rng(3).permutation(50))
