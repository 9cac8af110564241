"""Fixtures of the experiments' tests."""

import pytest


@pytest.fixture
def one_process(monkeypatch):
    """Computes here what else is computed in forks, whose counts would be lost."""
    monkeypatch.setattr("pacl.evaluation.dense.in_parts", lambda compute, count, multiple: [compute(range(count))])
