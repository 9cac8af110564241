"""The contrastive loss against torch's cross-entropy in double precision, and the pairs it leaves out."""

import math

import pytest
import torch
from torch.nn import functional as F

from pacl.loss import LogitScale, contrastive_loss


def test_loss_is_the_mean_of_two_cross_entropies():
    phi = torch.rand(6, 6, dtype=torch.double) * 2 - 1
    labels = torch.arange(6)
    expected = (F.cross_entropy(20 * phi, labels) + F.cross_entropy(20 * phi.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(phi, 20.0), expected)
    torch.testing.assert_close(
        contrastive_loss(phi.float(), torch.tensor(20.0)).double(), expected, atol=1e-5, rtol=1e-5
    )


def test_loss_of_half_precision_is_computed_in_float32():
    phi = torch.rand(6, 6).bfloat16()
    loss = contrastive_loss(phi, 20.0)
    assert loss.dtype == torch.float32 and torch.equal(loss, contrastive_loss(phi.float(), 20.0))


def test_loss_by_hand():
    phi = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert contrastive_loss(phi, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert contrastive_loss(torch.zeros(8, 8), 100.0).item() == pytest.approx(math.log(8))
    assert contrastive_loss(torch.tensor([[0.3]]), 10.0).item() == 0


def test_same_text_leaves_exactly_those_pairs_out():
    phi = torch.rand(3, 3, dtype=torch.double, requires_grad=True)
    same = torch.eye(3, dtype=torch.bool)
    same[0, 2] = True  # caption 2 describes image 0 too
    rows = -phi[0, 0] + torch.logsumexp(phi[0, :2], 0), *(-phi[i, i] + torch.logsumexp(phi[i], 0) for i in (1, 2))
    columns = *(-phi[j, j] + torch.logsumexp(phi[:, j], 0) for j in (0, 1)), -phi[2, 2] + torch.logsumexp(phi[1:, 2], 0)
    loss = contrastive_loss(phi, 1.0, same)
    torch.testing.assert_close(loss, (sum(rows) / 3 + sum(columns) / 3) / 2)
    loss.backward()
    assert phi.grad[0, 2] == 0 and torch.isfinite(phi.grad).all()


def test_a_batch_of_one_caption_is_finite():
    phi = torch.rand(4, 4, requires_grad=True)
    loss = contrastive_loss(phi, 10.0, torch.ones(4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(phi.grad).all()


@pytest.mark.parametrize("phi, same, message", [
    (torch.rand(3, 4), None, "must be \\[B, B\\]"),
    (torch.rand(3, 3, 2), None, "must be \\[B, B\\]"),
    (torch.rand(3, 3), torch.ones(4, 4, dtype=torch.bool), "same_text must be bool"),
    (torch.rand(3, 3), torch.ones(3, 3), "same_text must be bool"),
])  # fmt: skip
def test_bad_input_is_named(phi, same, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(phi, 10.0, same)


def test_logit_scale_learns_and_stays_within_bounds():
    scale = LogitScale(start=99.0, max=100.0)
    optimizer = torch.optim.SGD(scale.parameters(), lr=1.0)
    assert scale().item() == pytest.approx(99)
    (-scale()).backward()
    optimizer.step()
    assert scale().item() == pytest.approx(100)
    optimizer.zero_grad()
    scale().log().backward()  # at the bound, the way back must stay open
    optimizer.step()
    assert scale().item() == pytest.approx(100 / math.e)
    scale.log_scale.data.fill_(-3.0)
    assert scale().item() == 1
    assert LogitScale()().item() == pytest.approx(1 / 0.07)


def test_a_fixed_logit_scale_has_no_gradient():
    scale = LogitScale(start=10.0, learned=False)
    assert scale().item() == pytest.approx(10) and not scale().requires_grad


def test_logit_scale_refuses_a_start_outside_its_bounds():
    for start in (0.5, 100.5):
        with pytest.raises(ValueError, match="between 1 and 100"):
            LogitScale(start=start)
    assert [LogitScale(start=start)().item() for start in (1.0, 100.0)] == [1.0, pytest.approx(100.0)]
