"""data.benchmark."""

import numpy as np

from pacl.metrics import IGNORE_INDEX
from pacl.runtime.params import Protocol

IGNORE = 255  # the label of pixels that no class is asked for


def target_of(mask: np.ndarray, table: list[int]) -> np.ndarray:
    """A mask's values as one benchmark's class indices, uint8 [H, W]; IGNORE where it has no class. Raises ValueError
    for a value the table lacks.
    """
    beyond = np.where(np.asarray(mask) < 0, len(table), mask)  # so that a negative value is beyond the table, too
    target = np.asarray([*table, -1]).take(beyond, mode="clip")  # a value beyond the table gets the -1
    if (target < 0).any():
        raise ValueError(
            f"a mask holds the value {int(mask[target < 0][0])}, which is no class of its benchmark: "
            "check that mask and class list belong together."
        )
    return target.astype(np.uint8)


def has_background(benchmark: dict) -> bool:
    return benchmark["classes"][0] == "background"


def without_background(benchmark: dict) -> tuple[list[str], list[int]]:
    """A benchmark's classes and its table of mask values with the background, if there is one, ignored."""
    if not has_background(benchmark):
        return benchmark["classes"], benchmark["table"]
    shifted = {0: IGNORE_INDEX} | {k: k - 1 for k in range(1, len(benchmark["classes"]))}
    return benchmark["classes"][1:], [shifted.get(label, label) for label in benchmark["table"]]


def foreground(benchmark: dict, protocol: Protocol) -> list[str]:
    """The classes that get a text: all but a background that the protocol's rule makes from the others' uncertainty."""
    if protocol.phrases in benchmark.get("phrases", {}):
        return benchmark["phrases"][protocol.phrases]
    return (
        benchmark["classes"][1:]
        if has_background(benchmark) and protocol.background_rule != "none"
        else benchmark["classes"]
    )


def background_listed(benchmark: dict, protocol: Protocol) -> bool:
    """Whether the background has a text of its own beside the rule: the words of the protocol's phrases."""
    return has_background(benchmark) and len(foreground(benchmark, protocol)) == len(benchmark["classes"])


def on_benchmark(protocol: Protocol, benchmark: dict) -> Protocol:
    """The protocol, without its background rule where the benchmark has no background class."""
    return protocol if has_background(benchmark) else protocol.model_copy(update={"background_rule": "none"})
