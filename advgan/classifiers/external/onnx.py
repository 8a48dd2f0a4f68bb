"""A classifier in ONNX, run by onnxruntime, without gradients: `--target model.onnx`.

The model takes float images (n, c, h, w) in [0, 1], any number of them or a fixed one, and returns logits or
probabilities (n, k); outputs whose rows sum to 1 for a few images are probabilities. One value per image is the
probability of class 1 of two if it stays in [0, 1] for extreme images, else its logit. Of several float outputs (n, k)
one is chosen by `model.onnx#output=NAME`. It is a black box: attacks by scores, by decisions and by a trained
generator run on it, and `train/substitute.py` trains on its outputs.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers.adapters import two_logits
from advgan.classifiers.base import ImageShape
from advgan.classifiers.black_box import BlackBox
from advgan.classifiers.checks import check_batch_of, check_no_probabilities, in_unit_interval
from advgan.classifiers.external.base import resolve_shape
from advgan.core.errors import InputError, explained
from advgan.core.files import sha256_of
from advgan.core.inputs import is_softmax
from advgan.core.optional import require_package

Scores = Callable[[Tensor], Tensor]
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load(name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None) -> BlackBox:
    """The classifier in the file `name`; its identity is the SHA-256 of the file, and of those its weights lie in.

    It runs on as many CPU threads as torch (`torch.get_num_threads`), or on the GPU if onnxruntime supports it. Raises
    InputError for a damaged file, for images that it does not accept, and for outputs that are no scores.
    """
    path, _, fragment = name.partition("#")
    if weights is not None:
        raise InputError(f"{path} holds its own weights, expected no others, got {weights}")
    if not os.path.isfile(path):
        raise InputError(f"no model at {path}: expected a file")
    try:
        identity = sha256_of(Path(path), *_data_files(Path(path)))
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from None
    session = open_session(Path(path))
    output = _scores_output(session, path, fragment)
    count, *sizes = _input_sizes(session, path)
    shape = resolve_shape(path, sizes, image_shape)
    input_name, dtype = session.get_inputs()[0].name, DTYPES[session.get_inputs()[0].type]

    def run(x: Tensor) -> np.ndarray:
        """Scores of images `x`, `count` of them where it is fixed, else at least one: black ones are added."""
        missing = max((count or 1) - len(x), 0)
        padded = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
        (scores,) = session.run([output], {input_name: padded.cpu().numpy().astype(dtype, copy=False)})
        return np.asarray(scores, np.float32)[: len(x)]

    def scores(x: Tensor) -> Tensor:
        with explained(f"{path} cannot take images of shape {tuple(x.shape[1:])}: "):
            return torch.from_numpy(np.concatenate([run(part) for part in x.split(count or max(len(x), 1))]))

    to_probabilities, k = _output_conversion(
        scores, torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)), path
    )
    identity = f"{identity} {output}" if fragment else identity
    box = BlackBox(lambda x: to_probabilities(scores(x)), k, name=name, image_shape=shape, identity=identity)
    box.normalises = False
    return box


def _output_conversion(scores: Scores, x: Tensor, path: str) -> tuple[Scores, int]:
    """The function from `scores` to probabilities (n, k), and k, inferred from the scores of a few images `x`.

    Raises InputError for scores of no classifier: independent probabilities of k classes, dependence on the batch.
    """
    sample_scores = scores(x)
    if not sample_scores.numel() or sample_scores.shape not in {(len(x),), (len(x), sample_scores.shape[-1])}:
        raise InputError(
            f"{path} must return, for {len(x)} images, scores of shape ({len(x)}, classes), got "
            f"{tuple(sample_scores.shape)}"
        )
    if (single := tuple(scores(x[:1]).shape)) != (1, *sample_scores.shape[1:]):
        raise InputError(
            f"{path} must return scores of shape {(1, *sample_scores.shape[1:])} for one image, got {single} (a "
            "squeeze() that drops the batch?)"
        )
    to_probabilities, k = _conversion(scores, sample_scores, x)
    if torch.isfinite(sample_scores).all():
        check_batch_of(lambda images: to_probabilities(scores(images)), x, path)
    return to_probabilities, k


def _conversion(scores: Scores, sample_scores: Tensor, x: Tensor) -> tuple[Scores, int]:
    if sample_scores.ndim == 2 and sample_scores.shape[1] > 1:
        if is_softmax(sample_scores):
            return lambda p: p, sample_scores.shape[1]
        check_no_probabilities(scores, sample_scores, x)
        return lambda z: z.softmax(1), sample_scores.shape[1]
    try:
        check_no_probabilities(scores, sample_scores, x)
    except InputError:
        if not in_unit_interval(sample_scores):
            raise
        return lambda p: torch.stack([1 - p.reshape(-1), p.reshape(-1)], 1), 2
    return lambda f: two_logits(f).softmax(1), 2


def _scores_output(session: Any, path: str, fragment: str) -> str:
    """The name of the output with the scores: the NAME in `fragment` ("output=NAME"), or the only candidate. Raises
    InputError for none, or several."""
    outputs = {output.name: output for output in session.get_outputs()}
    candidates = [name for name, output in outputs.items() if output.type in DTYPES and len(output.shape) == 2]
    candidates = candidates or [
        name for name, output in outputs.items() if output.type in DTYPES and len(output.shape) == 1
    ]
    available = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs.values())
    key, _, requested = fragment.partition("=")
    if fragment and (key != "output" or requested not in outputs):
        raise InputError(f"{path}#{fragment} has no such output: expected {path}#output=NAME with one of {available}")
    if fragment and requested not in candidates:
        raise InputError(f"output {requested} of {path} holds no scores, floats of shape (n, classes), got {available}")
    if not candidates:
        raise InputError(f"{path} must return scores, floats of shape (n, classes), got {available}")
    if not fragment and len(candidates) > 1:
        raise InputError(
            f"{path} has {len(candidates)} outputs that may be the scores: expected {path}#output=NAME with one of "
            f"{available}"
        )
    return requested or candidates[0]


def open_session(file: Path) -> Any:
    """An onnxruntime session of `file` on torch's number of threads. Raises InputError for a file that is none."""
    runtime = require_package("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # no warnings, nor errors, which are exceptions too
    providers = [name for name in PROVIDERS if name in runtime.get_available_providers()]
    with explained(f"cannot read {file}: truncated, or no ONNX model (", ")"):
        return runtime.InferenceSession(file, options, providers=providers)


def _data_files(file: Path) -> list[Path]:
    """Files of external weights of the model in `file`. Raises InputError for one outside of its folder."""
    onnx = require_package("onnx", "onnx")
    with explained(f"cannot read {file}: truncated, or no ONNX model (", ")"):
        model = onnx.load(file, load_external_data=False)
    paths = {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}
    for path in paths:
        if "\0" in path or not (file.parent / path).resolve().is_relative_to(file.parent.resolve()):
            raise InputError(f"{file} has weights in {path}, expected them in its folder")
    return [file.parent / path for path in sorted(paths)]


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


def _input_sizes(session: Any, name: str) -> list[int | None]:
    """The sizes of the session's input, None for any. Raises InputError unless it is one float tensor of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise InputError(f"{name} must take one input, images (n, c, h, w), got {len(inputs)}: {names}")
    if inputs[0].type not in DTYPES:
        raise InputError(f"{name} takes {inputs[0].type}, expected float images in [0, 1]")
    return [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape or [None]]
