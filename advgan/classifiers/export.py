"""A classifier as an ONNX file: `x` (n, c, h, w) in [0, 1], any number of images -> `logits` (n, k)."""

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from advgan.classifiers.base import ImageShape
from advgan.classifiers.external.onnx import open_session
from advgan.core.errors import InputError, explained
from advgan.core.files import replacing
from advgan.core.optional import require_package

CLOSE = 1e-3  # the largest difference from PyTorch that is rounding, as a share of the largest logit


def require_onnx() -> None:
    """Raise InputError, with the install command, unless all that an export to ONNX needs is installed."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require_package(module, "onnx")


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Trace without the stack of each operation: it takes a fifth of the time, and puts this machine's paths into the
    file.
    """
    config: Any = import_module("torch.fx.config")
    before = getattr(config, "do_not_emit_stack_traces", False)  # PyTorch before it has the setting ignores it
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def export_classifier(model: nn.Module, image_shape: ImageShape, path: Path) -> None:
    """Write `model`, in eval mode, to `path`, once its logits equal PyTorch's for one image and for several.

    Raises InputError, and leaves `path` as it was, for a model that cannot be traced, and where the logits differ.
    """
    require_onnx()
    traced = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    x = torch.rand(5, *image_shape, generator=torch.Generator().manual_seed(0))
    names: Any = {"input_names": ["x"], "output_names": ["logits"]}
    with explained("the classifier cannot be exported to ONNX: "):
        with redirect_stdout(io.StringIO()), without_stack_traces():  # the tracer prints the graph of a failure
            program: Any = torch.onnx.export(
                traced, (x[:3],), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False, **names
            )
        content: bytes = program.model_proto.SerializeToString()
    with replacing(path) as aside:
        aside.write_bytes(content)
        session = open_session(aside)
        for images in (x[:1], x):
            with torch.no_grad():
                expected = traced(images).numpy()
            (logits,) = session.run(None, {"x": images.numpy()})
            difference = float(np.abs(logits - expected).max())
            if not difference <= CLOSE * max(1.0, float(np.abs(expected).max())):
                raise InputError(f"logits of the exported classifier differ from PyTorch's by up to {difference:.3g}")
