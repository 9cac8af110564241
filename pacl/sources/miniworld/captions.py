"""Captions of the mini world's scenes: short, varied and incomplete, like web images' alt texts (paper, section 4)."""

import numpy as np

from pacl.sources.miniworld import textures
from pacl.sources.miniworld.things import ODD

FRAMES = {  # a caption's form -> its weight
    "{}": 10,
    "a photo of {}": 3,
    "a picture of {}": 2,
    "{} .": 2,
} | dict.fromkeys(
    (
        *("{} , stock photo", "my {} !", "look at {}", "a drawing of {}", "{} on a nice day", "close up of {}"),
        *("there is {}", "i found {}", "{} , wow", "itap of {}", "a bad photo of {}", "art of {}"),
        *("{} in a video game", "origami , {}", "a good photo of {}"),
    ),
    1,
)
SHARES = np.array(list(FRAMES.values())) / sum(FRAMES.values())
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
LARGE, SMALL = 0.55, 0.38  # a thing is called large above, small below this fraction of the scene's side
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

    things: (thing, kind, side), the side as a fraction of the scene's; stuff: texture names. Probabilities:
    mention_thing, mention_stuff of naming each of them; mention_kind, mention_size of a thing's colour and size; coarse
    of calling a texture by its group ("wall"); noise of a caption that says nothing of the scene.
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
    """'a red apple', 'two ducks', ... in random order; counts a thing that occurs more than once."""
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
    return list(FRAMES)[rng.choice(len(FRAMES), p=SHARES)]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def plural(word: str) -> str:
    return PLURALS.get(word, word + "s")
