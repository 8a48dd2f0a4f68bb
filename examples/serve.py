"""A classifier behind an HTTP address: the reference server for `--target http://HOST:PORT/`.

python examples/serve.py --target checkpoints/mnist5k-classifier --port 8000
advgan compare --target http://127.0.0.1:8000/ --attacks noise-sign square advgan --generator RUN

The protocol is in advgan/classifiers/external/endpoint.py: GET returns a description of the classifier, POST takes
images as an .npy file or as JSON. For tests and teaching on one machine: no encryption, no access control.
"""

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

OutputKind = Literal["probabilities", "logits", "labels"]


@dataclass(frozen=True)
class Settings:
    """Classifier, output and address."""

    target: str = str(Path(__file__).resolve().parent.parent / "checkpoints/mnist5k-classifier")
    """Classifier: the directory of a saved one, or any other --target of advgan compare"""
    target_weights: Path | None = None
    """Weights of the classifier; None: its own"""
    defense: str | None = None
    """Defenses around the classifier, e.g. bit-depth:bits=3; None: none"""
    answers: OutputKind = "probabilities"
    """Output for each image: probabilities of all classes, logits, or the predicted label"""
    batch_size: int = 250
    """Maximum number of images in a request"""
    host: str = "127.0.0.1"
    """Network address of the server; 0.0.0.0: all interfaces"""
    port: int = 8000
    """Port; 0: a free one"""


def main(settings: Settings) -> None:
    model = load_classifier(settings.target, settings.target_weights, settings.defense)
    server = serve(model, settings.answers, settings.batch_size, settings.host, settings.port)
    print(f"{model.name} is served at http://{settings.host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def serve(
    model: Any, output: OutputKind = "probabilities", batch_size: int = 250, host: str = "127.0.0.1", port: int = 0
) -> ThreadingHTTPServer:
    """A server for `model`, a loaded classifier; `serve_forever` runs it."""
    names = getattr(model, "classes", None)
    metadata = {
        **{"image_shape": list(model.image_shape), "num_classes": model.num_classes, "answers": output},
        **{"batch_size": batch_size, "identity": fingerprint(model), "classes": None if names is None else list(names)},
    }

    class ClassifierHandler(Handler):
        description, classifier, lock = metadata, model, threading.Lock()

    return ThreadingHTTPServer((host, port), ClassifierHandler)


class Handler(BaseHTTPRequestHandler):
    """GET and POST of one classifier; an invalid request gets status 400 with the reason."""

    description: dict[str, Any]
    classifier: nn.Module
    lock: threading.Lock  # one forward pass at a time, on all cores

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
            decode = json_images if self.headers.get_content_type() == "application/json" else npy_images
            x = torch.from_numpy(decode(body, tuple(self.description["image_shape"]), self.description["batch_size"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return self.reply(400, {"error": f"no images: {error}"})
        with self.lock, torch.no_grad():
            logits: Tensor = self.classifier(x)
        output = self.description["answers"]
        outputs = {"logits": logits, "probabilities": logits.softmax(1), "labels": logits.argmax(1)}[output]
        self.reply(200, {output: outputs.tolist()})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def npy_images(body: bytes, shape: tuple[int, ...], max_images: int) -> np.ndarray:
    """The images (n, c, h, w) in an .npy file. The shape in its header is checked against the number of bytes."""
    stream = io.BytesIO(body)
    np.lib.format.read_magic(stream)
    stored_shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
    if columns_first or dtype != np.float32:
        raise ValueError(f"expected float32 in C order, got {dtype}")
    values = np.frombuffer(body, np.float32, offset=stream.tell())
    return checked(values.reshape(stored_shape), shape, max_images)


def json_images(body: bytes, shape: tuple[int, ...], max_images: int) -> np.ndarray:
    return checked(np.array(json.loads(body)["images"], dtype=np.float32), shape, max_images)


def checked(x: np.ndarray, shape: tuple[int, ...], max_images: int) -> np.ndarray:
    if x.shape[1:] != shape or not 1 <= len(x) <= max_images or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"expected 1 to {max_images} images of shape {shape} in [0, 1], got {x.shape}")
    return x.copy()


if __name__ == "__main__":
    run(main, Settings)
