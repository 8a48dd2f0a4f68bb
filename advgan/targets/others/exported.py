"""A classifier that `torch.export.save` wrote: `--target model.pt2`. Its source is not needed; its gradients are there.

    program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, "model.pt2")

The model takes float32 images (n, c, h, w) in [0, 1] and answers with logits (n, k). One that was exported for a fixed
number of images is given its batches in such parts. Nothing in the file is unpickled or run, see `archive.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from advgan.errors import InputError
from advgan.targets.base import ImageShape
from advgan.targets.others.archive import checked
from advgan.targets.others.base import Other, logits_of
from advgan.targets.others.signature import Signature, check_alone, sha256


class Program(nn.Module):
    """An exported graph as a module: images -> its one tensor, or its "logits". It has no mode to be put into."""

    def __init__(self, graph: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.graph, self.signature = graph, signature
        for module in self.modules():
            module.training = False

    def train(self, mode: bool = True) -> Program:
        return self  # a graph was traced in the mode that it has, and refuses to be asked for another

    def forward(self, x: Tensor) -> Tensor:
        return self.signature.run(self._answer, x)

    def _answer(self, x: Tensor) -> Tensor:
        answer = logits_of(self.graph(x))
        if not isinstance(answer, Tensor):
            raise InputError(
                f"{self.signature.file} must answer with one tensor, or a dict with logits, got {type(answer)}"
            )
        return answer


def load(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> Other:
    """The classifier in the file `name`, with gradients, on the CPU; its identity is the file's SHA-256.

    It keeps its own number of classes. Raises InputError for a file that is damaged or would run something, a model
    in training mode, and images that it does not take.
    """
    file = check_alone(name, weights)
    program = _read(file)
    signature = _signature(program, name)
    shape = signature.fit(image_shape)
    model = Program(program.module(), signature)
    try:
        with torch.no_grad():
            answer = model(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"{name} cannot take images of shape {shape}: {_line(error)}") from error
    if answer.shape not in {(1,), (1, answer.shape[-1])}:
        raise InputError(f"{name} must answer one image with logits of shape (1, classes), got {tuple(answer.shape)}")
    return Other(model, name, shape, max(2, answer.numel()), identity=sha256([file]))


def _read(file: Path) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(checked(file))
    except InputError:
        raise
    except Exception as error:  # a file that was tampered with can end in any exception
        raise InputError(f"cannot read {file}: torch {torch.__version__} does not load it ({_line(error)})") from None


def _signature(program: torch.export.ExportedProgram, name: str) -> Signature:
    """What the graph says of its input. Raises InputError unless that is one float32 tensor of images."""
    given = program.graph_signature
    inputs = [node for node in program.graph.find_nodes(op="placeholder") if node.name in given.user_inputs]
    if len(given.user_inputs) != 1 or len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise InputError(f"{name} must take one input, images (n, c, h, w), got {len(given.user_inputs)} inputs")
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        named = zip(schema.arguments, node.args, strict=False) if schema else ()
        if any(argument.name in ("train", "training") and value is True for argument, value in named):
            raise InputError(f"{name} was exported in training mode ({node.name}), expected one after model.eval()")
    image = inputs[0].meta["val"]
    if image.dtype != torch.float32:
        raise InputError(f"{name} takes {image.dtype}, expected float32 images in [0, 1]")
    count, *sizes = image.shape
    least, most = count, count
    if not isinstance(count, int):
        allowed = program.range_constraints.get(count.node.expr)
        least = 1 if allowed is None else max(1, int(allowed.lower))
        most = None if allowed is None or not allowed.upper.is_Integer else int(allowed.upper)
    return Signature(name, least, most, tuple(size if isinstance(size, int) else None for size in sizes))


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:160]
