"""Effects of an attack on the model: number of calls, and changes of its state."""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from advgan.core.weights import dense

PARTS = ("_modules", "_parameters", "_buffers")
FORWARD = ("forward", "_modules")
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
        self.gradients = {
            p: (p.requires_grad, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()
        }
        self.modes, self.parts = _modes(model), _parts(model)

    def changes(self) -> list[str]:
        """Names of the changed parts."""
        tensors, parts = _tensors(self.model), _parts(self.model)
        same = {
            "weights": tensors.keys() == self.weights.keys()
            and all(tensors[name] is tensor and _equal(tensor, was) for name, (tensor, was) in self.weights.items()),
            "mode": self.modes == _modes(self.model),
            "requires_grad": all(p.requires_grad == trainable for p, (trainable, _) in self.gradients.items()),
            "gradients": all(_equal(p.grad, gradient) for p, (_, gradient) in self.gradients.items()),
            "hooks": _selected(self.parts, HOOKS) == _selected(parts, HOOKS),
            "forward": _selected(self.parts, FORWARD) == _selected(parts, FORWARD),
        }
        return [f"the model's {name} changed" for name, unchanged in same.items() if not unchanged]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the model for the next attack."""
        for module, parts in self.parts.items():
            module.__dict__.pop("forward", None)
            for name, was in parts.items():
                held = module.__dict__.setdefault(name, was)
                if held is not was:
                    held.clear()
                    held.update(was)
        for tensor, before in self.weights.values():
            tensor.copy_(before)
        for parameter, (trainable, gradient) in self.gradients.items():
            parameter.requires_grad_(trainable)
            parameter.grad = gradient
        for module, training in self.modes.items():
            module.training = training


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _modes(model: nn.Module) -> dict[nn.Module, bool]:
    return {module: module.training for module in model.modules() if hasattr(module, "training")}


def _parts(model: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """Per module its parts and hooks by kind and name, and the forward of the instance, if any: objects, not values. Of
    all modules but TorchScript's, which take no hooks and no other parts."""
    return {
        module: {
            **{kind: dict(getattr(module, kind)) for kind in (*PARTS, *HOOKS)},
            **({"forward": module.__dict__["forward"]} if "forward" in module.__dict__ else {}),
        }
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }


def _selected(parts: dict[nn.Module, dict[str, Any]], kinds: tuple[str, ...]) -> list[Any]:
    """Modules and these of their parts; tensors are compared by `weights`."""
    return [(module, [kept.get(kind) for kind in kinds]) for module, kept in parts.items()]


def _equal(after: Tensor | None, before: Tensor | None) -> bool:
    if after is None or before is None:
        return after is before
    after, before = dense(after), dense(before)
    return after.shape == before.shape and after.device == before.device and bool(torch.equal(after, before))
