"""A classifier in ONNX: `--target model.onnx`. onnxruntime answers, with scores and without a gradient.

The model takes float images (n, c, h, w) in [0, 1], any number of them or a fixed one, and answers with logits or
probabilities (n, k): with probabilities if those of a few images sum to 1. It is a black box: attacks by scores, by
decisions and by a trained generator run on it, and `train/substitute.py` learns from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.errors import InputError, reason
from advgan.extras import extra
from advgan.targets.base import ImageShape
from advgan.targets.blackbox import ROUNDING, BlackBox
from advgan.targets.others.signature import Signature, check_alone, sha256

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> BlackBox:
    """The classifier in the file `name`; its identity is the SHA-256 of the file, and of those its weights lie in.

    It runs on as many CPU threads as torch (`torch.get_num_threads`), or on the GPU if onnxruntime has that. Raises
    InputError for a file that is damaged, images that it does not take, and answers that are no scores.
    """
    file = check_alone(name, weights)
    identity = sha256([file, *_data_files(file)])
    session, scores = open_session(file), 0
    signature = _signature(session, name)
    shape = signature.fit(image_shape)
    given, dtype = session.get_inputs()[0].name, DTYPES[session.get_inputs()[0].type]

    def run(x: Tensor) -> Tensor:
        answers = session.run(None, {given: x.cpu().numpy().astype(dtype, copy=False)})
        return torch.from_numpy(np.asarray(answers[scores], np.float32))

    def logits(x: Tensor) -> Tensor:
        try:
            return signature.run(run, x)
        except Exception as error:  # onnxruntime's have no class of their own
            raise InputError(f"{name} cannot take images of shape {tuple(x.shape[1:])}: {reason(error)}") from error

    outputs = session.get_outputs()
    able = [i for i, output in enumerate(outputs) if output.type in DTYPES and len(output.shape) == 2]
    if not able:
        found = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs)
        raise InputError(f"{name} must answer with scores, floats of shape (n, classes), got {found}")
    scores = able[0]
    few = logits(torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)))
    sums_to_1 = few.min() >= 0 and (few.sum(1) - 1).abs().max() <= ROUNDING
    answer = logits if sums_to_1 else lambda x: logits(x).softmax(1)
    return BlackBox(answer, few.shape[1], name=name, image_shape=shape, identity=identity)


def open_session(file: Path) -> Any:
    """An onnxruntime session of `file` on torch's number of threads. Raises InputError for a file that is none."""
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: they come as exceptions, and what is only worth a warning is its maker's
    providers = [name for name in PROVIDERS if name in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # onnxruntime's have no class of their own
        raise InputError(f"cannot read {file}: truncated, or no ONNX model ({reason(error)})") from None


def _data_files(file: Path) -> list[Path]:
    """Where the weights lie that `file` refers to. Raises InputError for one outside of its folder."""
    onnx = extra("onnx", "onnx")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's
        raise InputError(f"cannot read {file}: truncated, or no ONNX model ({reason(error)})") from None
    tensors = [each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    places = {entry.value for each in tensors for entry in each.external_data if entry.key == "location"}
    for place in places:
        if not (file.parent / place).resolve().is_relative_to(file.parent.resolve()):
            raise InputError(f"{file} wants weights from {place}, expected them beside it")
    return [file.parent / place for place in sorted(places)]


def _signature(session: Any, name: str) -> Signature:
    """What the session says of its input. Raises InputError unless that is one float tensor of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        found = ", ".join(each.name for each in inputs)
        raise InputError(f"{name} must take one input, images (n, c, h, w), got {len(inputs)}: {found}")
    if inputs[0].type not in DTYPES:
        raise InputError(f"{name} takes {inputs[0].type}, expected float images in [0, 1]")
    count, *sizes = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape or [None]]
    return Signature(name, count or 1, count, tuple(sizes))
