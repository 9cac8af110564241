"""Captions of mini-world scenes: short, varied and incomplete, as alt-texts of web images are (paper, section 4:
GCC-3M, GCC-12M, YFCC-15M).
"""

import numpy as np

from pacl.sources.miniworld import textures
from pacl.sources.miniworld.things import ODD

FRAMES = (
    ("{}", 10),
    ("a photo of {}", 3),
    ("a picture of {}", 2),
    ("{} .", 2),
    ("{} , stock photo", 1),
    ("my {} !", 1),
    ("look at {}", 1),
    ("a drawing of {}", 1),
    ("{} on a nice day", 1),
    ("close up of {}", 1),
    ("there is {}", 1),
    ("i found {}", 1),
    ("{} , wow", 1),
    ("itap of {}", 1),
    ("a bad photo of {}", 1),
    ("art of {}", 1),
    ("{} in a video game", 1),
    ("origami , {}", 1),
    ("a good photo of {}", 1),
)
WHERE = {
    "sky": ("under {}", "and {}", "with {}"),
    "wall": ("in front of {}", "by {}", "near {}"),
    "ground": ("on {}", "standing on {}", "on the {}"),
    "water": ("by the {}", "in the {}", "on the {}"),
    "floor": ("on {}", "on the {}", "lying on {}"),
    "plants": ("among {}", "in the {}", "with {}"),
    "cloth": ("on {}", "in front of {}", "with {}"),
    "lava": ("above {}", "near the {}", "by the {}"),
}
GROUP_OF = {name: group for group, names in textures.GROUPS.items() for name in names}
PLURALS = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish"}
LARGE, SMALL = 0.55, 0.38  # sides, as fractions of the scene's, above which a thing is called large, below which small
NOISE = ("untitled", "no caption", "holiday 2019", "img 0042", "free download", "best of the week")


def caption(
    rng: np.random.Generator,
    things: list,
    stuff: list,
    *,
    mention_thing=0.75,
    mention_stuff=0.55,
    mention_kind=0.5,
    mention_size=0.2,
    coarse=0.2,
    noise=0.02,
) -> str:
    """One caption of a scene.

    things: (thing, kind, side) in any order, the side as a fraction of the scene's; stuff: texture names. Each thing
    is mentioned with probability `mention_thing`, each texture with
    `mention_stuff`, a thing's colour with `mention_kind` and its size with `mention_size`; a texture is called by its
    group ("wall") with `coarse`; `noise` captions say nothing.
    """
    if rng.random() < noise:
        return str(rng.choice(NOISE))
    said_things = [t for t in things if rng.random() < mention_thing]
    said_stuff = [s for s in stuff if rng.random() < mention_stuff]
    if not said_things and not said_stuff:
        said_things, said_stuff = (things[:1], []) if things else ([], stuff[:1])
    subject = " and ".join(thing_phrases(rng, said_things, mention_kind, mention_size))
    places = [stuff_phrase(rng, name, coarse, bare=not subject and i == 0) for i, name in enumerate(said_stuff)]
    return frame(rng).format(" ".join(filter(None, [subject, *places])))


def thing_phrases(rng, things: list, mention_kind: float, mention_size: float) -> list[str]:
    """'a red apple', 'two ducks', ... in a random order; a thing that is there more than once is counted."""
    phrases = []
    names = [name for name, _, _ in things]
    for i in rng.permutation(len(things)):
        name, kind, side = things[i]
        if names.count(name) > 1:
            phrases.append(f"{('two', 'three', 'many')[min(names.count(name), 4) - 2]} {plural(name)}")
            continue
        word = name if kind == ODD or rng.random() > mention_kind else kind
        size = "large " if side > LARGE else "small " if side < SMALL else ""
        word = size + word if rng.random() < mention_size else word
        phrases.append(f"{rng.choice([article(word), article(word), 'the', 'this', 'one'])} {word}")
    return list(dict.fromkeys(phrases))


def stuff_phrase(rng, name: str, coarse: float, bare: bool) -> str:
    group = GROUP_OF[name]
    word = group if rng.random() < coarse else name
    return word if bare else str(rng.choice(WHERE[group])).format(word)


def frame(rng) -> str:
    weights = np.array([weight for _, weight in FRAMES], float)
    return FRAMES[rng.choice(len(FRAMES), p=weights / weights.sum())][0]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def plural(word: str) -> str:
    return PLURALS.get(word, word + "s")
