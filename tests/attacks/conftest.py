"""What tests of attacks share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from advgan.evaluation.instrumentation import ModelSnapshot


@pytest.fixture
def model_unchanged() -> Iterator[Callable[[nn.Module], nn.Module]]:
    """Prepares a model (training mode, gradients, a hook) and checks after the test that nothing of it has changed."""
    watched: list[ModelSnapshot] = []

    def prepare(model: nn.Module) -> nn.Module:
        model.train()[0].eval()  # mixed modes are kept
        next(model.parameters()).requires_grad_(False)
        last = list(model.parameters())[-1]
        last.grad = torch.ones_like(last)
        model[1].register_forward_hook(lambda *_: None)
        watched.append(ModelSnapshot(model))
        return model

    yield prepare
    assert watched
    assert [change for snapshot in watched for change in snapshot.changes()] == []
