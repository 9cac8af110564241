"""Nouns of captions by hand, and the lists of prompt templates."""

import numpy as np
import pytest
import spacy
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from pacl.clip.features import text_features, text_table
from pacl.data.prompts import ENGLISH, all_templates, never_nouns, nouns, tagger, templates


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("two butterflies near a brick wall", ("butterflies", "brick wall")),
        ("the red apple on a wooden table", ("apple", "table")),
        ("look at the umbrella under blue sky", ("umbrella", "sky")),
        ("a view of 3 ducks !", ("view", "ducks")),
        ("A Woman Holding An Ice Cream Cone", ("woman", "ice cream cone")),
        ("a train station at night .", ("train station", "night")),
        ("a black and white dog runs through the snow", ("dog", "snow")),
        ("a photo of a snowman , stock photo", ("photo", "snowman", "stock photo")),
        ("a duck , a cat and a duck on a cat", ("duck", "cat")),
        ("a train station by a train", ("train station", "train")),  # a compound is a noun of its own
        ("a brick and a wall", ("brick", "wall")),
        *((caption, ()) for caption in ("", "untitled", "!!!", "12 34", "very red and small")),
        # words with more than one kind, whose neighbours say which
        ("a copper key on the table", ("copper key", "table")),
        ("a ghost among leaves in front of plaid", ("ghost", "leaves", "front", "plaid")),
        ("the bus leaves the station", ("bus", "station")),
        ("a brown bear in a river", ("bear", "river")),
        ("they bear a heavy load", ("load",)),
        # a hyphenated word is one word, and its last part says what it is
        ("a boy in a t-shirt .", ("boy", "t-shirt")),
        ("a snow-covered hill", ("hill",)),
        ("fire - engine", ("fire", "engine")),
        ("a dog -", ("dog",)),
    ],
)
def test_nouns_by_hand(caption, expected):
    assert nouns([caption]) == [expected]


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


def test_every_template_has_one_place_for_the_class_and_an_unknown_list_is_named():
    for name in all_templates():
        assert all(form.count("{}") == 1 and form.format("cat").count("cat") == 1 for form in templates(name)), name
        assert len(set(templates(name))) == len(templates(name))
    with pytest.raises(ValueError, match="'eight' is not a list .* has plain, one, seven"):
        templates("eight")


def test_nouns_of_a_caption_depend_on_no_other_caption():
    """Whatever parts and chunks captions come in; spaces and capitals don't matter either."""
    captions = [f"a {colour} {thing} near the {stuff}" for colour in ("red", "copper", "plaid") for thing in
                ("key", "house", "mushroom", "star") for stuff in ("hay", "tiles", "brick wall")]  # fmt: skip
    together = nouns(captions)
    assert together == nouns(reversed(captions))[::-1] == [nouns([caption])[0] for caption in captions]
    assert nouns(["  A Red  KEY\nnear the hay\t"]) == nouns(["a red key near the hay"])


def test_new_words_are_forgotten():
    """Millions of captions have millions of names and misspellings."""
    nouns(["a dog"])
    vocab = tagger(ENGLISH).vocab
    words = len(vocab.strings), len(list(vocab))
    assert nouns(f"a wug{number} on grass" for number in range(500))[7] == ("wug7", "grass")
    assert (len(vocab.strings), len(list(vocab))) == words


@pytest.mark.parametrize("name", ["en_core_web_enormous", "yaml", "/no/such/folder", "untrained"])
def test_a_model_that_is_missing_or_of_another_kind_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spacy.blank("en").to_disk(tmp_path / "untrained")
    with pytest.raises(ValueError, match=rf"^features.nouns is {name}, but .*, or set it to {ENGLISH}, .*\.$") as error:
        text_table({"train": [["a dog"]]}, name)
    assert "\n" not in str(error.value)


def test_frequent_words_that_are_never_nouns_are_counted_by_captions():
    captions = ["a red dog", "the RED , red cat", "two nice dogs", "a catty dog 2019"]
    found = {noun for some in nouns(captions) for noun in some} - {"red"}
    assert never_nouns(captions, found) == {"red": 2, "nice": 1, "catty": 1}


def test_nouns_of_real_captions(real_data):
    """Flickr8k's, of which some words are nouns wherever they stand."""
    rows = (real_data / "flickr8k/captions.txt").read_text(encoding="utf-8").splitlines()[1:1001]
    captions = [row.partition(",")[2] for row in rows]
    for word in ("dog", "man", "water", "grass", "girl"):
        said = [found for found, text in zip(nouns(captions), captions, strict=True) if f" {word} " in f" {text} "]
        assert len(said) > 20 and sum(word in " ".join(found).split() for found in said) > 0.95 * len(said), word


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
