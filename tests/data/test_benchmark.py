"""A benchmark's targets, background and texts, by hand."""

import json

import numpy as np
import pytest

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.runtime.params import OnBenchmark, Protocol

TABLE = (0, 1, 2, *[-1] * 252, IGNORE)
PLAIN = Benchmark("plain", ("cat, kitten", "dog", "sea"), TABLE)
VOC = Benchmark("voc21", ("background", "cat", "dog"), TABLE, {"words": ("sky, wall", "cat", "dog, puppy")})
RULE = Protocol(background_rule="entropy", background_threshold=1.5)


def test_a_description_comes_back_as_it_was():
    assert PLAIN.names == ["cat", "dog", "sea"]
    for one in (PLAIN, VOC):
        assert Benchmark.described(one.name, json.loads(json.dumps(one.entry()))) == one
    assert list(PLAIN.entry()) == ["classes", "table"] and list(VOC.entry()) == ["classes", "table", "phrases"]


def test_targets_by_hand():
    one = Benchmark("one", ("a", "b", "c", "d"), (3, IGNORE, 0, *[-1] * 252, IGNORE))
    target = one.target(np.array([[0, 1], [2, 255]], np.uint8))
    assert target.tolist() == [[3, 255], [0, 255]] and target.dtype == np.uint8


@pytest.mark.parametrize(
    "value, kind", [(3, np.uint8), (254, np.uint8), (256, np.int32), (4000, np.uint16), (-1, np.int32)]
)
def test_a_value_that_is_not_a_label_is_named(value, kind):
    mask = np.zeros((4, 4), kind)
    mask[2, 1] = value
    with pytest.raises(ValueError, match=f"holds the value {value}, which is not a class of its benchmark: check"):
        PLAIN.target(mask)


def test_without_background_the_other_classes_move_up_and_it_is_ignored():
    one = VOC.without_background()
    assert (one.name, one.classes, one.table) == ("voc21", ("cat", "dog"), (IGNORE, 0, 1, *[-1] * 252, IGNORE))
    assert PLAIN.without_background() is PLAIN
    third = Benchmark("odd", ("cat", "dog", "background"), TABLE)
    assert not third.has_background and third.without_background() is third, "only a class 0 is the background"


def test_which_classes_get_a_text_and_which_rule_applies():
    words = RULE.model_copy(update={"phrases": "words"})
    assert VOC.texts(Protocol()) == VOC.classes and VOC.texts(RULE) == ("cat", "dog")
    assert VOC.texts(words) == ("sky, wall", "cat", "dog, puppy") and PLAIN.texts(words) == PLAIN.classes
    listed = [VOC.background_listed(protocol) for protocol in (Protocol(), RULE, words)]
    assert listed == [True, False, True] and not PLAIN.background_listed(RULE)
    own = RULE.model_copy(update={"per_benchmark": {"voc21": OnBenchmark(logit_scale=50.0)}})
    assert (VOC.settings(own).logit_scale, VOC.settings(own).background_rule) == (50.0, "entropy")
    assert (PLAIN.settings(own).logit_scale, PLAIN.settings(own).background_rule) == (100.0, "none")
