"""A classifier behind an HTTP address, queries alone: `--target http://HOST:PORT/PATH`.

    GET PATH    -> {"image_shape": [3, 32, 32], "num_classes": 10, "answers": "probabilities",
                    "batch_size": 250, "classes": ["cat", ...], "identity": "...", "images": "npy"}
    POST PATH   images, float32 (n, c, h, w) in [0, 1], as an .npy file (Content-Type application/x-npy), or where
                "images" is "json" as {"images": [[[[0.5, ...]]]]}
                -> {"probabilities": [[0.1, 0.9], ...]}, {"logits": [[-1.2, 3.4], ...]} or {"labels": [1, ...]}

The last four entries of the description are optional. "identity" distinguishes a model from its successor at the same
address, for the result cache. Settings follow a "#": http://HOST/PATH#timeout=5:retries=3:rate=10, see `RetryPolicy`.
`examples/serve.py` is such a service.

Requests go to the given address alone: no redirect is followed, no proxy of the environment used.
"""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers.base import MAX_CLASSES, MAX_SIDE, ImageShape
from advgan.classifiers.black_box import BlackBox, OutputKind
from advgan.classifiers.external.base import resolve_shape
from advgan.classifiers.external.client import Client, RetryPolicy
from advgan.core.errors import InputError, one_line
from advgan.core.inputs import is_softmax
from advgan.core.json_files import parse_value
from advgan.core.spec_strings import parse_spec

DESCRIPTION_BYTES = 1 << 20  # the longest description
MAX_VALUES, MAX_BATCH = 1 << 28, 1 << 20  # of an image; images in a batch
OUTPUTS = {"probabilities", "logits", "labels"}


def load(name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None) -> BlackBox:
    """The classifier at the address `name`, by its description. Raises InputError with the address for a missing or
    invalid response, also to later queries."""
    url, _, settings_text = name.partition("#")
    if weights is not None:
        raise InputError(f"{url} holds its own weights, expected no others, got {weights}")
    _, settings = parse_spec(
        f"endpoint:{settings_text}" if settings_text else "endpoint", {"endpoint": RetryPolicy}, (), "target"
    )
    client = Client(url, RetryPolicy(**settings))
    description = _parse_description(_json(client.request("GET", limit=DESCRIPTION_BYTES), url), url)
    shape = resolve_shape(url, description["image_shape"], image_shape)
    output, k, as_json = description["answers"], description["num_classes"], description["images"] == "json"

    def predict(x: Tensor) -> Tensor:
        response = _json(client.request("POST", *_encode(x.cpu(), as_json), limit=len(x) * k * 32 + 4096), url)
        if not isinstance(response, dict) or output not in response:
            raise InputError(f"{url} must return an object that has {output}, got {str(response)[:100]}")
        try:
            outputs = torch.as_tensor(response[output])
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(
                f"{url} must return {output}, lists of numbers, got {str(response[output])[:100]}"
            ) from error
        if output != "logits":
            return outputs
        if outputs.shape != (len(x), k):
            hint = ": [0, f] for one logit f" if k == 2 and outputs.numel() == len(x) else ""
            raise InputError(f"{url} must return logits of shape {(len(x), k)}, got {tuple(outputs.shape)}{hint}")
        if is_softmax(outputs):
            raise InputError(f'{url} returns probabilities (rows sum to 1), expected logits, or "probabilities"')
        return outputs.float().softmax(1)

    black_box_output: OutputKind = "labels" if output == "labels" else "probabilities"
    identity = f"{description['identity'] or url} {output}"
    metadata = {"name": url, "image_shape": shape, "classes": description["classes"], "identity": identity}
    return BlackBox(predict, k, black_box_output, batch_size=description["batch_size"], **metadata)


def _parse_description(description: Any, url: str) -> dict[str, Any]:
    """The description from an address, with defaults for optional entries. Raises InputError for an invalid one."""
    expected = 'expected {"image_shape": [c, h, w], "num_classes": k, "answers": "probabilities", "logits" or "labels"}'
    if not isinstance(description, dict):
        raise InputError(f"{url} must return a description, {expected}, got {str(description)[:100]}")
    description = {"batch_size": 250, "classes": None, "identity": "", "images": "npy"} | description
    shape, k, classes = description.get("image_shape"), description.get("num_classes"), description["classes"]
    valid = {
        "image_shape": isinstance(shape, list)
        and len(shape) == 3
        and all(_is_count(size, MAX_SIDE) for size in shape)
        and math.prod(shape) <= MAX_VALUES,
        "num_classes": _is_count(k, MAX_CLASSES) and k > 1,
        "answers": isinstance(description.get("answers"), str) and description["answers"] in OUTPUTS,
        "batch_size": _is_count(description["batch_size"], MAX_BATCH),
        "classes": classes is None
        or (isinstance(classes, list) and len(classes) == k and all(_is_text(name) for name in classes)),
        "identity": _is_text(description["identity"]),
        "images": description["images"] in ("npy", "json"),
    }
    if invalid := [key for key, is_valid in valid.items() if not is_valid]:
        raise InputError(
            f"{url} returns a description with {invalid[0]} {str(description.get(invalid[0]))[:100]}, {expected}"
        )
    return description | {"image_shape": tuple(shape)}


def _is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limit


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written as UTF-8: JSON may hold half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _encode(x: Tensor, as_json: bool) -> tuple[bytes, str]:
    """Images as the body of a request, and its Content-Type."""
    if as_json:
        return json.dumps({"images": x.tolist()}).encode(), "application/json"
    stream = io.BytesIO()
    np.save(stream, x.numpy(), allow_pickle=False)
    return stream.getvalue(), "application/x-npy"


def _json(body: bytes, url: str) -> Any:
    try:
        return parse_value(body)
    except ValueError as error:
        got = body[:100].decode(errors="replace")
        raise InputError(f"{url} must return JSON, got {got!r} ({one_line(error)})") from None
