"""Nouns of captions by hand, and the lists of prompt templates."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from pacl.clip.features import text_features, text_table
from pacl.data.prompts import SPACY_MODELS, all_templates, nouns, spacy_tagger, templates


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("a dog and a cat on the grass", ("dog", "cat", "grass")),
        ("two butterflies near a brick wall", ("butterflies", "brick wall")),
        ("the red apple on a wooden table", ("apple", "table")),
        ("a man riding a horse on the beach", ("man", "horse", "beach")),
        ("look at the umbrella under blue sky", ("umbrella", "sky")),
        ("a close up of 3 ducks !", ("ducks",)),
        ("A Woman Holding An Ice Cream Cone", ("woman", "ice cream cone")),
        ("a train station at night .", ("train station", "night")),
        ("a black and white dog runs through the snow", ("dog", "snow")),
        ("a photo of a snowman , stock photo", ("photo", "snowman", "stock photo")),
        ("a duck , a cat and a duck on a cat", ("duck", "cat")),
        ("a train station by a train", ("train station", "train")),  # a compound is a noun of its own
        ("a brick , a wall", ("brick", "wall")),
        ("a brick and a wall", ("brick", "wall")),
        *((caption, ()) for caption in ("", "untitled", "!!!", "12 34", "very red and small")),
    ],
)
def test_nouns_by_hand(caption, expected):
    assert nouns(caption) == expected


def test_the_seven_templates_are_the_papers():
    assert templates("seven") == [
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "{} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ]


def test_the_other_lists_are_tcls_and_openais():
    assert templates("tcl") == [*templates("seven"), "a photo of many {}.", "a photo of {}s."]
    assert templates("imagenet80") == [form("{}") for form in OPENAI_IMAGENET_TEMPLATES]
    assert templates("plain") == ["{}"] and templates("one") == ["a photo of a {}."]


def test_every_template_has_one_place_for_the_class():
    for name in all_templates():
        assert all(form.count("{}") == 1 and form.format("cat").count("cat") == 1 for form in templates(name)), name
        assert len(set(templates(name))) == len(templates(name))
    assert {name: len(templates(name)) for name in ("plain", "one", "tcl", "imagenet80")} == (
        {"plain": 1, "one": 1, "tcl": 9, "imagenet80": 80}
    )


def test_an_unknown_list_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="'eight' is not a list .* has plain, one, seven"):
        templates("eight")


@pytest.fixture
def fresh_taggers():
    """Forgets the tagger and the nouns after a test with a stand-in for spaCy."""
    yield
    for cached in (spacy_tagger, nouns):
        cached.cache_clear()


@pytest.mark.parametrize("model", SPACY_MODELS)
def test_spacys_nouns_and_proper_nouns_are_the_nouns(monkeypatch, fresh_taggers, model):
    """A stand-in for spaCy, which is not a dependency: its tags decide, not the words."""
    kinds = {"duck": "VERB", "golden": "PROPN", "retriever": "PROPN", "run": "NOUN", "2": "NOUN"}
    loaded = []

    def load(name, disable):
        if name != model:
            raise OSError(f"[E050] Can't find model {name!r}.")
        loaded.append((name, sorted(disable)))
        return lambda caption: [SimpleNamespace(text=w, pos_=kinds.get(w, "X")) for w in caption.split()]

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    assert nouns("A Golden Retriever and a duck on a run 2", "spacy") == ("golden retriever", "run")
    assert nouns("2 duck", "spacy") == ()  # a word without letters is never a noun
    assert loaded == [(model, ["lemmatizer", "ner", "parser"])]  # once, with its tagger only
    assert "duck" in nouns("a duck on a run")  # the other tagger has its own memory


@pytest.mark.parametrize("what", ["the package", "its model"])
def test_spacy_or_its_model_missing_is_one_sentence(what, monkeypatch, fresh_taggers):
    def load(name, disable):
        raise OSError(f"[E050] Can't find model {name!r}.")

    monkeypatch.setitem(sys.modules, "spacy", None if what == "the package" else SimpleNamespace(load=load))
    with pytest.raises(ValueError, match="features.nouns is spacy, but .* or set it to textblob.$") as error:
        text_table({"train": [["a dog"]]}, "spacy")
    assert "\n" not in str(error.value)


def test_a_caption_of_300_words_is_cut_where_clips_context_ends(tiny_clip, tmp_path):
    """CLIP's own rule: the first tokens that fit between the marks of beginning and end, and the end mark all the
    same. What follows changes nothing but the caption's nouns."""
    words = ["dog", "runs", "on", "grass", "near", "umbrella"]
    long = " ".join(words[i % 6] for i in range(299)) + " zebra"
    bpe, (row,) = SimpleTokenizer(), tiny_clip.tokenizer([long])
    expected = [bpe.sot_token_id, *bpe.encode(long)[: len(row) - 2], bpe.eot_token_id]
    assert len(long.split()) == 300 and row.tolist() == expected
    table = text_table({"train": [[long]]})
    assert table["nouns"][-1].endswith("zebra")
    text_features(tiny_clip, table, tmp_path, "one")
    kept = np.load(tmp_path / "caption_features.npy")
    fitting = bpe.decode(bpe.encode(long)[: len(row) - 2])
    torch.testing.assert_close(torch.from_numpy(kept).float(), tiny_clip.text_features([fitting]), atol=1e-3, rtol=0)
    assert not np.allclose(kept, tiny_clip.text_features(["a zebra"]), atol=1e-2)
