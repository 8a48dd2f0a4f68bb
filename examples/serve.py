"""A classifier behind an address: the reference for what `--target http://HOST:PORT/` talks to.

python examples/serve.py --target checkpoints/mnist5k-classifier --port 8000
advgan compare --target http://127.0.0.1:8000/ --attacks noise-sign square advgan --generator RUN

The protocol stands in advgan/classifiers/external/endpoint.py: GET describes the classifier, POST takes images as .npy
file or as JSON. It is for tests and teaching, on this machine: no encryption, and anybody who reaches it may ask.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import io
import json
import math
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advgan.classifiers import fingerprint
from advgan.core.config import run
from advgan.defenses import load_classifier

Told = Literal["probabilities", "logits", "labels"]


@dataclass(frozen=True)
class Settings:
    """What is served, and where."""

    target: str = str(Path(__file__).resolve().parent.parent / "checkpoints/mnist5k-classifier")
    """The classifier: the directory of a saved one, or any other --target"""
    target_weights: Path | None = None
    """Its weights, where the target is a name"""
    defense: str | None = None
    """What it stands behind, like bit-depth:bits=3"""
    answers: Told = "probabilities"
    """What it tells of an image: probabilities of all classes, logits, or its label alone"""
    batch_size: int = 250
    """The most images in one question"""
    host: str = "127.0.0.1"
    """Where it listens; 0.0.0.0 is everywhere"""
    port: int = 8000
    """Its port; 0 takes a free one"""


def main(settings: Settings) -> None:
    model = load_classifier(settings.target, settings.target_weights, settings.defense)
    server = serve(model, settings.answers, settings.batch_size, settings.host, settings.port)
    print(f"{model.name} answers at http://{settings.host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def serve(
    model: Any, answers: Told = "probabilities", batch_size: int = 250, host: str = "127.0.0.1", port: int = 0
) -> ThreadingHTTPServer:
    """A server of `model`, a loaded classifier; `serve_forever` runs it."""
    names = getattr(model, "classes", None)
    about = {
        **{"image_shape": list(model.image_shape), "num_classes": model.num_classes, "answers": answers},
        **{"batch_size": batch_size, "identity": fingerprint(model), "classes": None if names is None else list(names)},
    }

    class AttackFn(Handler):
        description, classifier, asked = about, model, threading.Lock()

    return ThreadingHTTPServer((host, port), AttackFn)


class Handler(BaseHTTPRequestHandler):
    """GET and POST of one classifier; a question that cannot be answered is status 400 with the reason."""

    description: dict[str, Any]
    classifier: nn.Module
    asked: threading.Lock  # one question at a time: each has all cores

    def do_GET(self) -> None:
        self.reply(200, self.description)

    def do_POST(self) -> None:
        pixels = self.description["batch_size"] * math.prod(self.description["image_shape"])
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > 24 * pixels + 4096:  # a pixel is 4 bytes, or up to 24 as text
            return self.reply(
                400, {"error": f"expected a Content-Length of at most {24 * pixels + 4096}, got {length!r}"}
            )
        body = self.rfile.read(int(length))
        try:
            read = json_images if self.headers.get_content_type() == "application/json" else npy_images
            x = torch.from_numpy(read(body, tuple(self.description["image_shape"]), self.description["batch_size"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return self.reply(400, {"error": f"no images: {error}"})
        with self.asked, torch.no_grad():
            logits: Tensor = self.classifier(x)
        kind = self.description["answers"]
        told = {"logits": logits, "probabilities": logits.softmax(1), "labels": logits.argmax(1)}[kind]
        self.reply(200, {kind: told.tolist()})

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def npy_images(body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    """The images (n, c, h, w) in an .npy file. What it says of its size is believed only where the bytes are there."""
    stream = io.BytesIO(body)
    np.lib.format.read_magic(stream)
    found, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
    if columns_first or dtype != np.float32:
        raise ValueError(f"expected float32 in C order, got {dtype}")
    values = np.frombuffer(body, np.float32, offset=stream.tell())
    return checked(values.reshape(found), shape, most)


def json_images(body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    return checked(np.array(json.loads(body)["images"], dtype=np.float32), shape, most)


def checked(x: np.ndarray, shape: tuple[int, ...], most: int) -> np.ndarray:
    if x.shape[1:] != shape or not 1 <= len(x) <= most or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"expected 1 to {most} images of shape {shape} in [0, 1], got {x.shape}")
    return x.copy()


if __name__ == "__main__":
    run(main, Settings)
