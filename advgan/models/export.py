"""A generator as one file for other programs: ONNX (onnxruntime, a browser, a phone) or pt2 (`torch.export.load`).

The graph takes `x` (n, c, h, w) in [0, 1], any number of images of any size, and where the generator takes them
`y_target` (n,) int64 (-1: away from the true class), `eps` (n,) and the noise `z`; it returns `x_adv`. Ball and
box are in the graph: its last step cuts at both, so that no runtime's rounding can leave them, and a larger eps than
the trained one is that one. A generator with a guide keeps to the guide's image size.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from advgan.classifiers import Classifier, fingerprint
from advgan.classifiers.export import require_onnx, without_stack_traces
from advgan.classifiers.external.onnx import open_session
from advgan.core.errors import InputError, explained
from advgan.core.files import check_writable, replacing, sweep
from advgan.core.threat_model import Threat, squash_to_ball
from advgan.models.generator import Generator
from advgan.models.networks import InstanceNorm
from advgan.models.unrolled import twice_differentiable

Format = Literal["onnx", "pt2"]
Inputs = dict[str, Tensor]
NAME, OUTPUT_NAME = "generator.json", "x_adv"  # of the metadata in a .pt2; of the output
# Settings that an exported file holds.
DESCRIBED = ("norm", "eps", "eps_min", "classes", "target_classes", "labels", "y_target", "channels", "noise")
CHUNK = 50  # images at once: what fits the cache in onnxruntime's layout
CLOSE = 1e-3  # the largest difference from PyTorch that is rounding, as a share of eps


@dataclass(frozen=True)
class Check:
    """One comparison with PyTorch: the images' shape, the largest difference of a pixel, what the ball says."""

    shape: tuple[int, ...]
    difference: float
    violations: list[str]


class FusedNorm(nn.Module):
    """`InstanceNorm` by torch's own operator: runtimes know it, and it traces for images of any size."""

    def __init__(self, norm: InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.film = norm.weight, norm.bias, norm.film

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.film is None:
            return torch.instance_norm(x, weight.flatten(), bias.flatten(), None, None, True, 0.0, 1e-5, False)
        scale, shift = rearrange(self.film(cond), "n (two w) -> two n w 1 1", two=2)
        normed = torch.instance_norm(x, None, None, None, None, True, 0.0, 1e-5, False)
        return normed * (weight * (1 + scale)) + (bias + shift)


class Exportable(nn.Module):
    """A copy of `generator` that traces, and that ends inside ball and box whatever the runtime rounds."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator).cpu().to(memory_format=torch.contiguous_format)
        for module in list(self.generator.modules()):
            for name, child in module.named_children():
                if isinstance(child, InstanceNorm):
                    setattr(module, name, FusedNorm(child))
        self.eval().requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        y_target: Tensor | None = None,
        eps: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        norm, largest = self.generator.threat.norm, self.generator.threat.eps
        radius = x.new_full(x.shape[:1], largest) if eps is None else eps.clamp(0.0, largest)
        return squash_to_ball(self.generator.raw_perturbation(x, y, y_target, radius, z), x, norm, radius)


def flattened(module: nn.Module, given: Inputs) -> torch.fx.GraphModule:
    """The graph of `module` for inputs like `given`, by their names: backward passes inside it are ordinary nodes."""

    def by_position(*values: Tensor) -> Tensor:
        return module(**dict(zip(given, values, strict=True)))

    with torch.no_grad(), twice_differentiable():
        graph: torch.fx.GraphModule = make_fx(by_position, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
            *given.values()
        )
    for node, name in zip(graph.graph.find_nodes(op="placeholder"), given, strict=True):
        node.target = name
    graph.recompile()
    return graph


def export_generator(generator: Generator, path: Path, kind: Format, *, eps_input: bool = False) -> list[Check]:
    """Write `generator`, on the CPU, to `path`, once its outputs equal PyTorch's; the comparisons.

    eps_input   whether eps is an input also of a generator that is not conditional on it: the radius of the last step

    Its norm, eps, classes and the SHA-256 of its weights stand in ONNX's metadata, or in generator.json among the extra
    files of a .pt2. Raises InputError, and leaves `path` as it was, where the outputs differ or leave the ball.
    """
    if path.suffix != f".{kind}":
        raise InputError(f"a file in format {kind} must be called something.{kind}, got {path}")
    check_writable(path.parent)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file that can be written")
    content = _content(generator, kind, eps_input)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with replacing(path) as aside:
        aside.write_bytes(content)
        checks = compare(generator, (read_onnx if kind == "onnx" else _read_pt2)(aside), eps_input=eps_input)
        for check in checks:
            if check.violations or not check.difference <= CLOSE * generator.threat.eps:
                raise InputError(
                    f"outputs of the exported generator for images {check.shape} differ from PyTorch's, nothing was "
                    f"written: pixels differ by up to {check.difference:.3g}; "
                    f"{'; '.join(check.violations) or 'all in the ball'}"
                )
    return checks


def compare(generator: Generator, run: Callable[[Inputs], Tensor], *, eps_input: bool = False) -> list[Check]:
    """`run`, an exported form of `generator`, beside it: batches of several sizes, of images of several sizes."""
    rng, checks = torch.Generator().manual_seed(0), []
    m = generator.size_multiple
    sizes = [(4 * m, 4 * m), (28, 28), (5 * m + 1, 7 * m - 1), (64, 96)]
    if generator.guide is not None:
        sizes = [generator.guide.image_shape[1:]]
    for (height, width), n in [(size, n) for size in sizes for n in (1, 2, 7)]:
        x = torch.rand(n, generator.channels, height, width, generator=rng).mul(1.4).sub(0.2).clamp(0, 1)
        given = inputs(generator, x, rng, eps_input=eps_input)
        with torch.no_grad():
            expected = generator(**given)
        output = run(given)
        eps_values = given.get("eps", torch.full((n,), generator.threat.eps)).tolist()
        violations = [
            text
            for i, eps in enumerate(eps_values)
            for text in Threat(generator.threat.norm, eps).violations(output[i : i + 1], x[i : i + 1])
        ]
        checks.append(Check(tuple(x.shape), (output - expected).abs().max().item(), violations))
    return checks


def inputs(generator: Generator, x: Tensor, rng: torch.Generator, *, eps_input: bool = False) -> Inputs:
    """What the exported form of `generator` is given beside images `x`: all that it takes, drawn."""
    given, n = {"x": x}, len(x)
    if generator.labels:
        given["y"] = torch.randint(-1, generator.labels, (n,), generator=rng)
    if generator.classes:
        given["y_target"] = torch.randint(-1, generator.classes, (n,), generator=rng)
    if generator.eps_min is not None or eps_input:
        given["eps"] = generator.threat.eps * (0.2 + 0.8 * torch.rand(n, generator=rng))
    if generator.noise:
        given["z"] = torch.randn(n, generator.noise, generator=rng)
    return given


def about(generator: Generator) -> dict[str, str]:
    """What an exported file says of itself."""
    config = generator.config
    return {key: json.dumps(config[key]) for key in DESCRIBED} | {"sha256": fingerprint(generator)}


def read_onnx(path: Path) -> Callable[[Inputs], Tensor]:
    """The generator in `path` in onnxruntime, on torch's number of threads: its inputs by name -> x_adv."""
    session = open_session(path)

    def run(given: Inputs) -> Tensor:
        parts = zip(*(each.split(CHUNK) for each in given.values()), strict=True)
        outputs = [
            session.run(None, {key: each.numpy() for key, each in zip(given, part, strict=True)}) for part in parts
        ]
        return torch.cat([torch.from_numpy(output[0]) for output in outputs])

    return run


def _read_pt2(path: Path) -> Callable[[Inputs], Tensor]:
    module = torch.export.load(path).module()
    return lambda given: module(**given)


def _content(generator: Generator, kind: Format, eps_input: bool) -> bytes:
    """The file. Raises InputError where a network or a guide that is not built in cannot be traced."""
    write = without_stack_traces()(_onnx_bytes if kind == "onnx" else _pt2_bytes)
    if not generator.custom and (generator.guide is None or isinstance(generator.guide, Classifier)):
        return write(generator, eps_input)
    part = "network" if generator.custom else "guide"
    with explained(f"the {part} of this generator cannot be exported to {kind}: "):
        return write(generator, eps_input)


def _onnx_bytes(generator: Generator, eps_input: bool) -> bytes:
    require_onnx()
    traced = _traced(generator, eps_input)
    names = {str(given): {0: "n"} for given in traced.graph_signature.user_inputs}
    names["x"] |= {2: "h", 3: "w"} if generator.guide is None else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # several inputs have the same n: they shall
        program: Any = torch.onnx.export(
            traced, dynamo=True, output_names=[OUTPUT_NAME], dynamic_shapes=names, verbose=False
        )
    program.model.metadata_props.update({f"advgan.{key}": text for key, text in about(generator).items()})
    return program.model_proto.SerializeToString()


def _pt2_bytes(generator: Generator, eps_input: bool) -> bytes:
    """In memory: torch's own writer aborts the process where a disk is full."""
    content = io.BytesIO()
    torch.export.save(_traced(generator, eps_input), content, extra_files={NAME: json.dumps(about(generator))})
    return content.getvalue()


def _traced(generator: Generator, eps_input: bool) -> torch.export.ExportedProgram:
    """The graph for any number of images, of any size where there is no guide."""
    guide, m = generator.guide, generator.size_multiple
    size = (3 * m + 1, 5 * m + 2) if guide is None else guide.image_shape[1:]
    n = next(n for n in range(3, 9) if n not in (generator.channels, *size))  # sizes that are alike count as one
    x, rng = torch.rand(n, generator.channels, *size), torch.Generator().manual_seed(0)
    given = inputs(generator, x, rng, eps_input=eps_input)
    shapes: dict[str, Any] = {key: {0: Dim.DYNAMIC} for key in given}
    if guide is None:
        shapes["x"] |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    settings: Any = import_module("torch.fx.experimental._config")
    with settings.patch(backed_size_oblivious=True):  # a size of 1 is a size like others
        module: nn.Module = Exportable(generator)
        if generator.iterations:
            module = flattened(module, given)
        program = torch.export.export(module, (), kwargs=given, dynamic_shapes=shapes)
    # What tracing took for granted of these sizes (that padding is needed) holds for no other, and the graph does not
    # rest on it: `compare` tries others.
    program._guards_code = []
    return program
