"""A classifier in ONNX: `--target model.onnx`. onnxruntime answers, with scores and without a gradient.

The model takes float images (n, c, h, w) in [0, 1], any number of them or a fixed one, and returns logits or
probabilities (n, k): with probabilities if those of a few images sum to 1. One value per image is the probability of
class 1 of two, if it stays in [0, 1] whatever the image, else its logit. Of several outputs of floats (n, k) one is
named: `model.onnx#output=NAME`. It is a black box: attacks by scores, by decisions and by a trained generator run on
it, and `train/substitute.py` learns from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers.base import ImageShape
from advgan.classifiers.black_box import BlackBox
from advgan.classifiers.checks import check_batch_of, check_no_probabilities, in_unit_interval, two_logits
from advgan.classifiers.external.signature import Signature, check_alone, sha256
from advgan.core.errors import InputError, one_line
from advgan.core.inputs import is_softmax
from advgan.core.optional import require_package

Scores = Callable[[Tensor], Tensor]
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
    path, _, words = name.partition("#")
    file = check_alone(path, weights)
    identity = sha256([file, *_data_files(file)])
    session = open_session(file)
    output = _output(session, path, words)
    signature = _signature(session, path)
    shape = signature.fit(image_shape)
    given, dtype = session.get_inputs()[0].name, DTYPES[session.get_inputs()[0].type]

    def run(x: Tensor) -> Tensor:
        (scores,) = session.run([output], {given: x.cpu().numpy().astype(dtype, copy=False)})
        return torch.from_numpy(np.asarray(scores, np.float32))

    def scores(x: Tensor) -> Tensor:
        try:
            return signature.run(run, x)
        except Exception as error:  # onnxruntime's have no class of their own
            raise InputError(f"{path} cannot take images of shape {tuple(x.shape[1:])}: {one_line(error)}") from error

    to_probabilities, k = _reading(scores, torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)), path)
    identity = f"{identity} {output}" if words else identity
    return BlackBox(lambda x: to_probabilities(scores(x)), k, name=name, image_shape=shape, identity=identity)


def _reading(scores: Scores, x: Tensor, path: str) -> tuple[Scores, int]:
    """What makes probabilities (n, k) of the `scores` for images, and k, told by those of a few images `x`.

    Raises InputError for scores that are no classifier's: probabilities of k classes that do not sum to 1, and scores
    that depend on the batch.
    """
    few = scores(x)
    if few.shape not in {(len(x),), (len(x), few.shape[-1])}:
        raise InputError(
            f"{path} must return, for {len(x)} images, scores of shape ({len(x)}, classes), got {tuple(few.shape)}"
        )
    to_probabilities, k = _kind(scores, few, x)
    if torch.isfinite(few).all():
        check_batch_of(lambda images: to_probabilities(scores(images)), x, path)
    return to_probabilities, k


def _kind(scores: Scores, few: Tensor, x: Tensor) -> tuple[Scores, int]:
    if few.ndim == 2 and few.shape[1] > 1:
        if is_softmax(few):
            return lambda p: p, few.shape[1]
        check_no_probabilities(scores, few, x)
        return lambda z: z.softmax(1), few.shape[1]
    try:
        check_no_probabilities(scores, few, x)
    except InputError:
        if not in_unit_interval(few):
            raise
        return lambda p: torch.stack([1 - p.reshape(-1), p.reshape(-1)], 1), 2
    return lambda f: two_logits(f).softmax(1), 2


def _output(session: Any, path: str, words: str) -> str:
    """The name of the output with the scores: the one that `words`, "output=NAME", ask for, or the only one that can
    be. Raises InputError where there is none, or several."""
    outputs = {output.name: output for output in session.get_outputs()}
    able = [name for name, output in outputs.items() if output.type in DTYPES and len(output.shape) == 2]
    able = able or [name for name, output in outputs.items() if output.type in DTYPES and len(output.shape) == 1]
    listed = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs.values())
    key, _, asked = words.partition("=")
    if words and (key != "output" or asked not in outputs):
        raise InputError(f"{path}#{words} names no output: expected {path}#output=NAME with one of {listed}")
    if words and asked not in able:
        raise InputError(f"output {asked} of {path} holds no scores, floats of shape (n, classes), got {listed}")
    if not able:
        raise InputError(f"{path} must return scores, floats of shape (n, classes), got {listed}")
    if not words and len(able) > 1:
        raise InputError(
            f"{path} has {len(able)} outputs that may be the scores: expected {path}#output=NAME with one of {listed}"
        )
    return asked or able[0]


def open_session(file: Path) -> Any:
    """An onnxruntime session of `file` on torch's number of threads. Raises InputError for a file that is none."""
    runtime = require_package("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: they come as exceptions, and what is only worth a warning is its maker's
    providers = [name for name in PROVIDERS if name in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # onnxruntime's have no class of their own
        raise InputError(f"cannot read {file}: truncated, or no ONNX model ({one_line(error)})") from None


def _data_files(file: Path) -> list[Path]:
    """Where the weights lie that `file` refers to. Raises InputError for one outside of its folder."""
    onnx = require_package("onnx", "onnx")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's
        raise InputError(f"cannot read {file}: truncated, or no ONNX model ({one_line(error)})") from None
    places = {entry.value for each in _tensors(model) for entry in each.external_data if entry.key == "location"}
    for place in places:
        if not (file.parent / place).resolve().is_relative_to(file.parent.resolve()):
            raise InputError(f"{file} wants weights from {place}, expected them beside it")
    return [file.parent / place for place in sorted(places)]


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors with external data in a model, wherever they are: initialisers, constants, branches, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location == message.EXTERNAL:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) or hasattr(value, "add") else [value]:
                yield from _tensors(part)


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
