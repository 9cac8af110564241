"""Nouns of captions by hand, and the lists of prompt templates."""

import pytest
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from pacl.prompts import all_templates, nouns, templates


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
    ],
)
def test_nouns_by_hand(caption, expected):
    assert nouns(caption) == expected


@pytest.mark.parametrize("caption", ["", "untitled", "!!!", "12 34", "very red and small"])
def test_captions_without_nouns(caption):
    assert nouns(caption) == ()


def test_nouns_come_once_each_in_order():
    assert nouns("a duck , a cat and a duck on a cat") == ("duck", "cat")
    assert nouns("a cat and a duck") == ("cat", "duck")
    assert nouns("a train station by a train") == ("train station", "train")  # a compound is a noun of its own


def test_a_comma_or_another_word_ends_a_compound():
    assert nouns("a brick wall") == ("brick wall",)
    assert nouns("a brick , a wall") == ("brick", "wall")
    assert nouns("a brick and a wall") == ("brick", "wall")


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
    with pytest.raises(ValueError, match="'eight' is no list .* has plain, one, seven"):
        templates("eight")
