"""Effects of an attack on the model: number of calls, and changes of its state."""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

PARTS = ("_modules", "_parameters", "_buffers")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CallCounter:
    """Counts images that go forward through `model`, and gradients that come back, while its block lasts.

    with CallCounter(model) as counter:
        attack(x, y)
    counter.forwards, counter.backwards
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.forwards, self.backwards = model, 0, 0

    def __enter__(self) -> Self:
        self._hook = self.model.register_forward_hook(self._forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _forward(self, model: nn.Module, inputs: Any, logits: Any) -> None:
        self.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class ModelSnapshot:
    """A model's parts, weights, modes, requires_grad, gradients and hooks, to compare with and to go back to."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights = {name: (tensor, tensor.detach().clone()) for name, tensor in _tensors(model).items()}
        self.modes = _modes(model)
        self.trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self.gradients = {p: None if p.grad is None else p.grad.detach().clone() for p in model.parameters()}
        self.hooks = _hooks(model)
        self.parts = _parts(model)

    def changes(self) -> list[str]:
        """Names of the changed parts."""
        after = _tensors(self.model)
        same = {
            "weights": after.keys() == self.weights.keys()
            and all(
                after[name] is tensor and _equal(tensor, before) for name, (tensor, before) in self.weights.items()
            ),
            "mode": self.modes == _modes(self.model),
            "requires_grad": all(p.requires_grad == before for p, before in self.trainable.items()),
            "gradients": all(_equal(p.grad, before) for p, before in self.gradients.items()),
            "hooks": self.hooks == _hooks(self.model),
            "forward": _same_parts(self.parts, _parts(self.model)),
        }
        return [f"the model's {name} changed" for name, unchanged in same.items() if not unchanged]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the model for the next attack."""
        for module, (forward, parts) in self.parts.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
            for kind, was_parts in parts.items():
                held = getattr(module, kind)
                held.clear()
                held.update(was_parts)
        for tensor, before in self.weights.values():
            tensor.copy_(before)
        for parameter, was_trainable in self.trainable.items():
            parameter.requires_grad_(was_trainable)
            parameter.grad = self.gradients[parameter]
        for module, training in self.modes.items():
            module.training = training
        for module, kinds in self.hooks.items():
            for kind, was_hooks in kinds.items():
                hooks = getattr(module, kind)
                hooks.clear()
                hooks.update(was_hooks)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _modes(model: nn.Module) -> dict[nn.Module, bool]:
    return {module: module.training for module in model.modules() if hasattr(module, "training")}


def _python_modules(model: nn.Module) -> list[nn.Module]:
    """All modules but TorchScript's, which take no hooks and no other parts."""
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]


def _hooks(model: nn.Module) -> dict[nn.Module, dict[str, dict[int, Any]]]:
    return {module: {kind: dict(getattr(module, kind)) for kind in HOOKS} for module in _python_modules(model)}


def _parts(model: nn.Module) -> dict[nn.Module, tuple[Any, dict[str, dict[str, Any]]]]:
    """Per module the forward of the instance, if any, and its parts by name: objects, not values."""
    return {
        module: (module.__dict__.get("forward"), {kind: dict(getattr(module, kind)) for kind in PARTS})
        for module in _python_modules(model)
    }


def _same_parts(before: dict[nn.Module, Any], after: dict[nn.Module, Any]) -> bool:
    """Whether both hold the same modules with the same forwards (tensors are compared by `weights`)."""
    return before.keys() == after.keys() and all(
        before[m][0] is after[m][0]
        and list(before[m][1]["_modules"].values()) == list(after[m][1]["_modules"].values())
        for m in before
    )


def _equal(after: Tensor | None, before: Tensor | None) -> bool:
    if after is None or before is None:
        return after is before
    return after.shape == before.shape and after.device == before.device and bool(torch.equal(after, before))
