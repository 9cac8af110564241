"""Dense patch tokens: shifted plain passes beside one joint pass of overlapping patches.

One image through ViT-B/16 in float32, with random weights, which cost the same; each variant runs in processes of its
own. Times are processor seconds of all threads. Memory is measured with an allocator that returns a tensor's memory at
once: what the tensors need, without leftovers that differ from run to run.
"""

import os
import time

import torch

from pacl.clip import load_clip
from speed.features import operations
from speed.measuring import held, in_own_process, product_rate, row

SIZE, STRIDE, PATCH, THREADS = 400, 4, 16, 2  # pixels; threads
PASSES = {"ours": "shifted", "plain": "joint"}
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # bytes; larger tensors' memory is returned at once
TARGETS = {"seconds": 0.45, "gigabytes": 0.25}


def run(passes: str) -> dict:
    """{"seconds", "gigabytes"}, beyond the loaded model and the image; call it in a process of its own."""
    torch.set_num_threads(THREADS)
    clip = load_clip("ViT-B-16", "random", device="cpu")
    images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    clip.patch_features(images[..., :64, :64], STRIDE, passes=passes)  # the libraries' one-time allocations
    start = time.process_time()
    gigabytes = held(lambda: clip.patch_features(images, STRIDE, passes=passes))
    return {"seconds": time.process_time() - start, "gigabytes": gigabytes}


def measure() -> dict:
    timed = {name: in_own_process(run, passes) for name, passes in PASSES.items()}
    os.environ.update(RETURNED_AT_ONCE)  # read by the processes that start from here on
    sized = {name: in_own_process(run, passes) for name, passes in PASSES.items()}
    torch.set_num_threads(1)  # the floor in processor seconds, too
    dense = row(
        f"ViT-B/16's tokens of {SIZE} x {SIZE} pixels, one every {STRIDE}, in shifted passes",
        {name: one["seconds"] for name, one in timed.items()},
        against="one joint pass",
        gigabytes={name: one["gigabytes"] for name, one in sized.items()},
        targets=TARGETS,
        floor_seconds=(PATCH // STRIDE) ** 2 * operations((SIZE // PATCH) ** 2 + 1) / product_rate(),
        floor="the operations of the passes, one for each shift, at a large matrix product's rate",
    )
    note = "Memory is what the tensors need: the processes' allocator returned what they left at once."
    return {"threads": THREADS, "rows": [dense], "notes": [note]}
