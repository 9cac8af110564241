"""Runs one benchmark by its name; beside `__main__`, whose functions another process cannot import."""

import importlib

import torch

from speed.features import operations
from speed.measuring import product_rate, row

DENSE_TARGETS = {"seconds": 0.45, "gigabytes": 0.25}


def measured(item: str) -> dict:
    """What a benchmark measures, as rows."""
    result = importlib.import_module(f"speed.{item}").measure()
    if item != "dense_inference":
        return result
    torch.set_num_threads(1)  # a processor second's rate for the floor
    return dense_rows(result, product_rate())


def dense_rows(result: dict, rate: float) -> dict:
    """The row of dense_inference, which compares shifted passes with a joint one in its own form; processor seconds."""
    size, stride, patch = result["size"], result["stride"], 16
    variants = {"ours": result["shifted"], "plain": result["joint"]}
    floor = (patch // stride) ** 2 * operations((size // patch) ** 2 + 1)
    dense = row(
        f"ViT-B/16's tokens of {size} x {size} pixels, one every {stride}, in shifted passes",
        {name: of["processor_seconds"] for name, of in variants.items()},
        against="one joint pass",
        gigabytes={name: of["gigabytes"] for name, of in variants.items()},
        targets=DENSE_TARGETS,
        floor_seconds=floor / rate,
        floor="the operations of the passes, one for each shift, at a large matrix product's rate",
    )
    note = "Memory is what the tensors need: the processes' allocator returned what they left at once."
    return {"threads": result["threads"], "rows": [dense], "notes": [note]}
