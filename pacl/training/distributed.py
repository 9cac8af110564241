"""Several processes that train as one: their communication, by torch.distributed (gloo on CPUs, nccl on GPUs).

Without a process group, each function returns its input unchanged.
"""

import os
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist


@contextmanager
def process_group():
    """Joins the processes that torchrun or notebook_launcher started, as their environment variables say."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: waiting for the other processes might last forever


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather(rows: Tensor) -> list[Tensor]:
    """Every rank's rows [b, ...], in the order of ranks; b may differ. This rank's part is `rows` itself, with its
    gradient; the others have none.
    """
    if world_size() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    counts = [int(count) for count in counts]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
    parts[rank()] = rows
    return parts


def all_reduce(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum of all ranks' tensors of one shape, on the CPU. device: where the group's messages travel."""
    if world_size() == 1:
        return tensor
    total = tensor.to(device, copy=True)
    dist.all_reduce(total)
    return total.cpu()


def sum_gradients(parameters) -> None:
    """Sums the gradients of these parameters over all ranks, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def same_everywhere(number: int, device: torch.device) -> bool:
    """Whether all ranks passed the same number."""
    return len({int(part) for part in all_gather(torch.tensor([number], device=device))}) == 1


def own_part(count: int, multiple: int) -> range:
    """This rank's part of `count` items, in order; `multiple` divides the lengths of all parts but the last non-empty
    one.
    """
    each = -(-count // (world_size() * multiple)) * multiple
    return range(count)[rank() * each : (rank() + 1) * each]
