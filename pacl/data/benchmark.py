"""Segmentation benchmarks: their classes, and which value of a mask stands for which (paper, section 4)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pacl.runtime.params import Protocol

IGNORE = 255  # the label of pixels that count for no class


def phrases_of(name: str) -> list[str]:
    """The phrases of a class or a prompt, which commas separate."""
    return [phrase for part in name.split(",") if (phrase := part.strip())]


def is_background(name: str) -> bool:
    """Whether a class is the background: one of its phrases is that word, however it is written."""
    return any(re.sub(r"[\W_]", "", phrase).casefold() == "background" for phrase in phrases_of(name))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of K classes.

    classes: for each its synonyms, comma-separated; class 0 may be the background, see `is_background`. table: for each
    of a mask's 256 values the class index, IGNORE, or -1 for a value that no mask may hold. phrases: a protocol's list
    of phrases -> the words it has for each class. things: the names of the classes that are things and not stuff, None
    where nobody says.
    """

    name: str
    classes: tuple[str, ...]
    table: tuple[int, ...]
    phrases: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    things: tuple[str, ...] | None = None

    @classmethod
    def described(cls, name: str, entry: dict) -> "Benchmark":
        """The benchmark that a prepared file describes: {"classes", "table"} and perhaps "phrases" and "things"."""
        phrases = {key: tuple(words) for key, words in entry.get("phrases", {}).items()}
        things = None if entry.get("things") is None else tuple(entry["things"])
        return cls(name, tuple(entry["classes"]), tuple(entry["table"]), phrases, things)

    def entry(self) -> dict:
        """Its description in a prepared file."""
        entry = {"classes": self.classes, "table": self.table, "phrases": self.phrases or None, "things": self.things}
        return {key: value for key, value in entry.items() if value is not None}

    @property
    def names(self) -> list[str]:
        """The first synonym of each class."""
        return [phrases_of(synonyms)[0] for synonyms in self.classes]

    @property
    def has_background(self) -> bool:
        return is_background(self.classes[0])

    def without_background(self) -> "Benchmark":
        """The benchmark with its background, if it has one, ignored."""
        if not self.has_background:
            return self
        moved = {0: IGNORE} | {k: k - 1 for k in range(1, len(self.classes))}
        table = tuple(moved.get(label, label) for label in self.table)
        return Benchmark(self.name, self.classes[1:], table, things=self.things)

    def target(self, mask: np.ndarray) -> np.ndarray:
        """A mask's values as class indices, uint8 of the mask's shape; IGNORE where the benchmark has no class. Raises
        ValueError for a value that no mask may hold.
        """
        beyond = np.where(np.asarray(mask) < 0, len(self.table), mask)  # so that the -1 stands for negative values, too
        target = np.asarray([*self.table, -1]).take(beyond, mode="clip")
        if (target < 0).any():
            raise ValueError(
                f"a mask holds the value {int(mask[target < 0][0])}, which is not a class of its benchmark: "
                "check that mask and class list belong together."
            )
        return target.astype(np.uint8)

    def shares(self, pixels: Sequence[int]) -> list[dict]:
        """How much of the masks each class fills: {"value", "class", "share"}, one a class, the last for all ignored
        pixels. pixels: how many have each of the 256 values.
        """
        total, rows = max(sum(pixels), 1), []
        for label, name in [*enumerate(self.names), (IGNORE, "ignored")]:
            values = [value for value, own in enumerate(self.table) if own == label]
            shown = ", ".join(map(str, values[:3])) + (" ..." if len(values) > 3 else "")
            rows.append({"value": shown, "class": name, "share": sum(pixels[value] for value in values) / total})
        return rows

    def texts(self, protocol: Protocol) -> tuple[str, ...]:
        """The classes that get a text: all but a background that the protocol's rule derives from the others."""
        if protocol.phrases in self.phrases:
            return self.phrases[protocol.phrases]
        return self.classes[1:] if self.has_background and protocol.background_rule != "none" else self.classes

    def background_listed(self, protocol: Protocol) -> bool:
        """Whether the background has a text of its own."""
        return self.has_background and len(self.texts(protocol)) == len(self.classes)

    def settings(self, protocol: Protocol) -> Protocol:
        """The protocol with its changes for this benchmark, and without a background rule if this has no background."""
        own = protocol.on(self.name)
        return own if self.has_background else own.model_copy(update={"background_rule": "none"})
