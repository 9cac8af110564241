"""Captions say nothing that isn't there; mention rates by hand; articles and plurals."""

import re

import numpy as np
import pytest

from pacl.sources.miniworld import textures
from pacl.sources.miniworld.captions import GROUP_OF, NOISE, article, caption, plural, thing_phrases
from pacl.sources.miniworld.scenes import rng_of, scene
from pacl.sources.miniworld.things import ODD, things

APPLE, DUCK = ("apple", "red apple", 0.45), ("duck", "brown duck", 0.45)


@pytest.fixture(scope="module")
def captioned():
    """(caption, things, stuff) of 60 scenes, seven captions each."""
    rows = []
    for index in range(60):
        rng = rng_of(11, "train", index)
        made = scene(rng)
        rows += [(caption(rng, made["things"], made["stuff"]), made["things"], made["stuff"]) for _ in range(7)]
    return rows


def captions_of(things, stuff, count=3000, **rates):
    rng = np.random.default_rng(0)
    return [caption(rng, things, stuff, **rates) for _ in range(count)]


def says(text, phrase):
    return re.search(rf"\b{phrase}\b", text) is not None


def share(texts, phrase):
    return np.mean([says(text, phrase) for text in texts])


def test_captions_name_only_what_is_in_the_scene(captioned):
    said = 0
    for text, placed, stuff in captioned:
        names = [name for name, _, _ in placed]
        for name, drawing in things().items():
            if says(text, name) or says(text, plural(name)):
                assert name in names, text
                said += 1
            assert name == plural(name) or not says(text, plural(name)) or names.count(name) > 1, text
            for word, count in (("two", 2), ("three", 3), ("many", 4)):
                assert not says(text, f"{word} {plural(name)}") or names.count(name) >= count, text
            for kind in drawing["kinds"]:
                assert not says(text, kind) or kind in [kind for _, kind, _ in placed], text
        for texture in textures.NAMES:
            if texture != "lava" and says(text, texture):  # the one texture that is called like its group
                assert texture in stuff, text
        for group in textures.GROUPS:
            assert not says(text, group) or group in [GROUP_OF[name] for name in stuff], text
        assert not says(text, ODD)
    assert said > 300  # the loop above had something to look at


def test_articles_suit_the_next_word(captioned):
    texts = [text for text, _, _ in captioned]
    texts += captions_of([("apple", ODD, 0.4), ("snowman", "icy snowman", 0.4)], ["ice"], count=300)
    assert not any(re.search(r"\ba [aeiou]", text) or re.search(r"\ban [^aeiou]", text) for text in texts)
    assert any(says(text, "an apple") for text in texts) and any(says(text, "an icy snowman") for text in texts)
    assert [article(word) for word in ("apple", "large apple", "orange fish", "key")] == ["an", "a", "an", "a"]
    plurals = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish", "house": "houses", "key": "keys"}
    assert {name: plural(name) for name in plurals} == plurals


def test_words_are_mentioned_as_often_as_stated():
    """With neither thing nor texture chosen, the thing is named: 0.98 * (0.75 + 0.25 * 0.45) of captions name it."""
    texts = captions_of([APPLE], ["grass"])
    assert share(texts, "apple") == pytest.approx(0.98 * (0.75 + 0.25 * 0.45), abs=0.03)
    assert share(texts, "(grass|ground)") == pytest.approx(0.98 * 0.55, abs=0.03)
    assert share(texts, "ground") == pytest.approx(0.98 * 0.55 * 0.2, abs=0.02)
    with_apple = [text for text in texts if says(text, "apple")]
    assert share(with_apple, "red apple") == pytest.approx(0.5, abs=0.03)
    assert np.mean([text in NOISE for text in texts]) == pytest.approx(0.02, abs=0.01)
    both = captions_of([APPLE, DUCK], [])
    named = np.mean([says(text, "apple") and says(text, "duck") for text in both])
    assert named == pytest.approx(0.98 * 0.75**2, abs=0.03)


def test_sizes_are_said_of_large_and_small_things_only():
    for side, word in ((0.56, "large"), (0.37, "small"), (0.54, None), (0.39, None)):
        texts = captions_of([("duck", ODD, side)], [], 3000 if word else 100, mention_thing=1, noise=0)
        found = {size: share(texts, f"{size} duck") for size in ("large", "small")}
        for size, often in found.items():
            assert often == (pytest.approx(0.2, abs=0.03) if size == word else 0)


def test_only_the_first_words_of_a_caption_stand_without_a_preposition():
    always = {"mention_thing": 1, "mention_stuff": 1, "mention_kind": 0, "coarse": 0, "noise": 0}
    texts = captions_of([], ["grass", "sea"], 200, **always)
    assert all(re.search(r"grass (by|in|on) the sea", text) for text in texts)
    texts = captions_of([APPLE], ["grass"], 200, **always)
    assert all(re.search(r"apple (on|standing on|on the) grass", text) for text in texts)


def test_several_of_a_kind_are_counted_once():
    for count, phrase in ((2, "two ducks"), (3, "three ducks"), (4, "many ducks"), (5, "many ducks")):
        rng = np.random.default_rng(0)
        assert thing_phrases(rng, [DUCK] * count, mention_kind=1, mention_size=1) == [phrase]
    phrases = thing_phrases(np.random.default_rng(0), [DUCK, APPLE, DUCK], mention_kind=1, mention_size=0)
    assert "two ducks" in phrases and len(phrases) == 2
