"""A classifier behind an address: `--target http://HOST:PORT/PATH`. It answers queries, and that is all it does.

    GET PATH    -> {"image_shape": [3, 32, 32], "num_classes": 10, "answers": "probabilities",
                    "batch_size": 250, "classes": ["cat", ...], "identity": "...", "images": "npy"}
    POST PATH   images, float32 (n, c, h, w) in [0, 1], as an .npy file (Content-Type application/x-npy), or where
                "images" is "json" as {"images": [[[[0.5, ...]]]]}
                -> {"probabilities": [[0.1, 0.9], ...]}, {"logits": [[-1.2, 3.4], ...]} or {"labels": [1, ...]}

The last four of the description may be left out. "identity" tells a model from its successor at the same address:
results are kept by it. Settings follow a "#": http://HOST/PATH#timeout=5:retries=3:rate=10, see `RetryPolicy`.
`examples/serve.py` is such a service.

Only the address that was given is asked, directly: no redirect is followed, no proxy of the environment used.
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers.base import MAX_CLASSES, MAX_SIDE, ImageShape
from advgan.classifiers.black_box import BlackBox, OutputKind
from advgan.classifiers.external.client import Client, RetryPolicy
from advgan.classifiers.external.signature import Signature
from advgan.core.errors import InputError
from advgan.core.inputs import is_softmax
from advgan.core.spec_strings import parse_spec

ABOUT = 1 << 20  # bytes: the longest description that is read
VALUES, MAX_BATCH = 1 << 28, 1 << 20  # of an image, and images at once, that a service may describe
KINDS = {"probabilities", "logits", "labels"}


def load(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> BlackBox:
    """The classifier at the address `name`, as it describes itself. Raises InputError, which names the address, for
    one that does not answer, or with something else; also later, with any of its answers."""
    url, _, words = name.partition("#")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"a target's address must look like http://HOST:PORT/PATH, got {url!r} ({error})") from None
    if "@" in parts.netloc:  # it would stand in every report
        raise InputError(f"a target's address must hold no user or password, got one for {parts.hostname}")
    if not parts.hostname or not re.fullmatch(r"[!-~]+", url):
        raise InputError(f"a target's address must look like http://HOST:PORT/PATH, got {name!r}")
    if weights is not None:
        raise InputError(f"{url} holds its own weights, expected no others, got {weights}")
    _, settings = parse_spec(f"endpoint:{words}" if words else "endpoint", {"endpoint": RetryPolicy}, (), "target")
    client = Client(url, RetryPolicy(**settings))
    about = _described(_json(client.ask("GET", most=ABOUT), url), url)
    shape = Signature(url, 1, None, about["image_shape"]).fit(image_shape)
    kind, k, as_json = about["answers"], about["num_classes"], about["images"] == "json"

    def answer(x: Tensor) -> Tensor:
        told = _json(client.ask("POST", *_packed(x.cpu(), as_json), most=len(x) * k * 32 + 4096), url)
        if not isinstance(told, dict) or kind not in told:
            raise InputError(f"{url} must return an object that has {kind}, got {str(told)[:100]}")
        try:
            found = torch.as_tensor(told[kind])
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"{url} must return {kind}, lists of numbers, got {str(told[kind])[:100]}") from error
        if kind != "logits":
            return found
        if found.shape != (len(x), k):
            hint = ": [0, f] for one logit f" if k == 2 and found.numel() == len(x) else ""
            raise InputError(f"{url} must return logits of shape {(len(x), k)}, got {tuple(found.shape)}{hint}")
        if is_softmax(found):
            raise InputError(f'{url} returns probabilities (rows sum to 1), expected logits, or "probabilities"')
        return found.float().softmax(1)

    answers: OutputKind = "labels" if kind == "labels" else "probabilities"
    identity = f"{about['identity'] or url} {kind}"
    more = {"name": url, "image_shape": shape, "classes": about["classes"], "identity": identity}
    return BlackBox(answer, k, answers, batch_size=about["batch_size"], **more)


def _described(about: Any, url: str) -> dict[str, Any]:
    """What an address says of itself, with what it left out. Raises InputError for what cannot be."""
    wanted = 'expected {"image_shape": [c, h, w], "num_classes": k, "answers": "probabilities", "logits" or "labels"}'
    if not isinstance(about, dict):
        raise InputError(f"{url} must describe itself, {wanted}, got {str(about)[:100]}")
    about = {"batch_size": 250, "classes": None, "identity": "", "images": "npy"} | about
    shape, k, classes = about.get("image_shape"), about.get("num_classes"), about["classes"]
    right = {
        "image_shape": isinstance(shape, list)
        and len(shape) == 3
        and all(_count(size, MAX_SIDE) for size in shape)
        and math.prod(shape) <= VALUES,
        "num_classes": _count(k, MAX_CLASSES) and k > 1,
        "answers": isinstance(about.get("answers"), str) and about["answers"] in KINDS,
        "batch_size": _count(about["batch_size"], MAX_BATCH),
        "classes": classes is None
        or (isinstance(classes, list) and len(classes) == k and all(_is_text(each) for each in classes)),
        "identity": _is_text(about["identity"]),
        "images": about["images"] in ("npy", "json"),
    }
    if wrong := [key for key, fine in right.items() if not fine]:
        raise InputError(f"{url} describes itself with {wrong[0]} {str(about.get(wrong[0]))[:100]}, {wanted}")
    return about | {"image_shape": tuple(shape)}


def _count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_text(value: Any) -> bool:
    """Whether it is a text that a file can hold: JSON may have half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _packed(x: Tensor, as_json: bool) -> tuple[bytes, str]:
    """Images as the body of a question, and its Content-Type."""
    if as_json:
        return json.dumps({"images": x.tolist()}).encode(), "application/json"
    stream = io.BytesIO()
    np.save(stream, x.numpy(), allow_pickle=False)
    return stream.getvalue(), "application/x-npy"


def _json(body: bytes, url: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        got = body[:100].decode(errors="replace")
        raise InputError(f"{url} must return JSON, got {got!r} ({type(error).__name__})") from None
