"""Several processes train as one: the loss, the gradients and the weights of one process (gloo, on the CPU)."""

import pytest
import torch
import torch._dynamo  # else torch.utils.checkpoint imports it in every fork, which takes seconds
from helpers.small_training import params, run_rank, run_together, train_uneven

from pacl.training import distributed
from pacl.training.train import train


def train_together(world_size, folder, changes):
    """The exit codes of so many processes, and the first one's results."""
    codes, found = run_together(world_size, run_rank, folder, changes), folder / "found.pt"
    return codes, torch.load(found) if found.exists() else None


def assert_same(found, expected):
    """Loss, gradients, weights and history, to 1e-5."""
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for some, others in zip(found[1:3], expected[1:3], strict=True):
        assert some.keys() == others.keys()
        for name in some:
            torch.testing.assert_close(some[name], others[name], atol=1e-5, rtol=1e-5, msg=name)
    for row, other in zip(found[3], expected[3], strict=True):
        assert row == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (2, {}),
        (3, {"text_embedder": "linear", "accumulate": 2}),
        (3, {"pooling": "matched_only", "mask_same_text": False, "noun_share": 0.0}),
    ],
    ids=["two", "three, text head, in parts", "three, matched only"],
)
def test_several_processes_are_one(world_size, changes, tmp_path):
    """Batches of 7, 7 and 5 pairs, 6 epochs."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    expected = train_uneven(tmp_path / "alone", dict(changes))
    codes, found = train_together(world_size, tmp_path / "together", changes)
    assert codes == [0] * world_size
    assert_same(found, expected)
    assert min(gradient.abs().max() for gradient in expected[1].values()) > 1e-4
    assert sorted(path.name for path in (tmp_path / "together/out/mini").iterdir()) == [
        "best.json", "best.safetensors", "last.json", "last.safetensors",
    ]  # fmt: skip


def test_another_number_of_processes_resumes(tmp_path):
    """Two processes are interrupted in the fourth epoch, three resume."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    expected = train_uneven(tmp_path / "alone", {})
    codes, _ = train_together(2, tmp_path / "together", {"stop": 10})
    assert codes == [1, 1] and list(tmp_path.glob("together/out/.resume/mini/*/*10.safetensors"))
    codes, found = train_together(3, tmp_path / "together", {})
    assert codes == [0, 0, 0]
    assert_same(found, expected)


def test_items_are_shared_out_batch_by_batch(monkeypatch):
    for count, world_size, expected in ((10, 2, [6, 4]), (10, 3, [4, 4, 2]), (3, 4, [2, 1, 0, 0]), (0, 2, [0, 0])):
        monkeypatch.setattr(distributed, "world_size", lambda size=world_size: size)
        parts = []
        for rank in range(world_size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(distributed.own_part(count, 2))
        assert [len(part) for part in parts] == expected and [i for part in parts for i in part] == list(range(count))


def test_more_processes_than_pairs_in_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 2 can't be shared by 3 processes: start fewer"):
        train(None, params(pairs=4, batch_size=2))
