"""--target http://...: the HTTP protocol and faulty services. Each service is a thread of this process."""

import importlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advgan.classifiers import BlackBox, QueryBudgetExceeded, fingerprint
from advgan.classifiers.external import client
from advgan.classifiers.external import load_external as load
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.defenses import load_classifier
from advgan.experiments.comparison import run as compare
from tests.conftest import ROOT, environment, program_module

service = importlib.import_module("examples.serve")
substitute = importlib.import_module("advgan.training.substitute")
X = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
DESCRIPTION = {"image_shape": [1, 28, 28], "num_classes": 3, "answers": "probabilities"}
Response = tuple[int, dict[str, str], Any]  # status, headers, what is sent as JSON, or bytes


@pytest.fixture
def start_server() -> Iterator[Callable[[ThreadingHTTPServer], str]]:
    """Starts a server and returns its address."""
    running: list[ThreadingHTTPServer] = []

    def start(server: ThreadingHTTPServer) -> str:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def scripted_service(start_server: Callable[[ThreadingHTTPServer], str]) -> Callable[..., str]:
    """A service with a `description` that gives the responses in turn and then repeats the last one."""

    def start(*responses: Response | Callable[[BaseHTTPRequestHandler], None], description: Any = DESCRIPTION) -> str:
        todo = list(responses)

        class Scripted(BaseHTTPRequestHandler):
            requests = 0

            def do_GET(self) -> None:
                self.send((200, {}, description))

            def do_POST(self) -> None:
                type(self).requests += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                response = todo.pop(0) if len(todo) > 1 else todo[0]
                response(self) if callable(response) else self.send(response)

            def send(self, response: Response) -> None:
                status, headers, body = response
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
        start.handler = Scripted  # type: ignore[attr-defined]
        return start_server(server)

    return start


@pytest.fixture
def waited_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would have waited; nothing is waited for."""
    seconds: list[float] = []
    clock = SimpleNamespace(
        sleep=seconds.append, monotonic=time.monotonic
    )  # the client's alone: other threads sleep too
    monkeypatch.setattr(client, "time", clock)
    return seconds


@pytest.fixture
def started_service(classifier: Path, start_server: Callable[[ThreadingHTTPServer], str]) -> Callable[..., str]:
    model = load_classifier(str(classifier / "classifier"))
    return lambda *arguments: start_server(service.serve(model, *arguments))


def valid_response(n: int = 5) -> Response:
    return 200, {}, {"probabilities": [[0.2, 0.3, 0.5]] * n}


# Responses


@pytest.mark.parametrize("output", ["probabilities", "logits", "labels"])
def test_reference_service_returns_outputs_of_its_classifier(
    output: str, started_service: Callable[..., str], classifier: Path
) -> None:
    model, url = load_classifier(str(classifier / "classifier")), started_service(output, 2)
    box = load_classifier(url, image_shape=(1, 28, 28))
    assert isinstance(box, BlackBox)
    assert (box.name, box.image_shape, box.num_classes, box.batch_size) == (url, (1, 28, 28), 3, 2)
    assert box.identity == f"{fingerprint(model)} {output}"
    if output == "labels":
        assert torch.equal(box(X).argmax(1), model(X).argmax(1))
    else:
        assert torch.allclose(box(X), model(X).log_softmax(1).clamp_min(np.log(1e-12)), atol=1e-4)
    assert box.queries == 5


def test_json_and_binary_images_are_equal(started_service: Callable[..., str]) -> None:
    url = started_service("logits")
    box, plain = load(url), load(url)
    http_client = client.Client(url, client.RetryPolicy())
    body = json.dumps({"images": X.tolist()}).encode()
    response = json.loads(http_client.request("POST", body, "application/json", limit=1 << 16))
    assert torch.allclose(torch.tensor(response["logits"]).log_softmax(1), box(X), atol=1e-5)
    assert torch.equal(box(X), plain(X))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"\x80\x04.", "application/x-npy", "no images"),
        (b"{}", "application/json", "no images"),
        (json.dumps({"images": [[[[2.0]]]]}).encode(), "application/json", "expected 1 to 250 images"),
    ],
)
def test_reference_service_refuses_invalid_images(
    body: bytes, kind: str, message: str, started_service: Callable[..., str]
) -> None:
    url = started_service()
    with pytest.raises(InputError, match=rf"{url} rejects the request with status 400 .*{message}"):
        client.Client(url, client.RetryPolicy(retries=0)).request("POST", body, kind, limit=1 << 16)


def test_images_are_sent_as_json_on_request(scripted_service: Callable[..., str]) -> None:
    content_types: list[Any] = []

    def respond(handler: Any) -> None:
        content_types.append(handler.headers["Content-Type"])
        handler.send(valid_response())

    load(scripted_service(respond, description=DESCRIPTION | {"images": "json", "classes": ["a", "b", "c"]}))(X)
    assert content_types == ["application/json"]


# Invalid responses


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((200, {}, {"probabilities": [[float("nan")] * 3] * 5}), r"must return JSON.*\(NaN is no JSON number\)"),
        ((200, {}, b'{"probabilities": [[1e999]]}'), r"must return JSON.*a number beyond any float"),
        ((200, {}, b'{"probabilities": [], "probabilities": []}'), "the key 'probabilities' comes twice"),
        ((200, {}, valid_response(4)[2]), r"probabilities of shape \(5, 3\), got \(4, 3\)"),
        ((200, {}, {"probabilities": [[1.0], [1.0, 2.0]]}), "must return probabilities, lists of numbers"),
        ((200, {}, {"probabilities": "all of them"}), "must return probabilities, lists of numbers"),
        ((200, {}, {"labels": [1] * 5}), "must return an object that has probabilities, got"),
        ((200, {}, [1, 2]), "must return an object that has probabilities"),
        ((200, {}, b"<html>"), "must return JSON, got '<html>'"),
        ((200, {}, b"[" * 4000), "must return JSON"),
        ((200, {}, {"probabilities": [[5.0, -3.0, 1.0]] * 5}), r"sum to 1, got values from -3"),
        ((200, {}, b" " * 10_000), "returns more than 4576 bytes, the largest valid response"),
        ((404, {}, {"error": "gone"}), "rejects the request with status 404 Not Found: .*gone"),
        ((302, {"Location": "http://169.254.0.1/"}, b""), "redirects to 'http://169.254.0.1/', and redirects are not"),
    ],
)
def test_invalid_response_raises_with_address(
    response: Response, message: str, scripted_service: Callable[..., str]
) -> None:
    url = scripted_service(response)
    box = load(url)
    with pytest.raises(InputError, match=message) as caught:
        box(X)
    assert url in str(caught.value)
    assert scripted_service.handler.requests == 1  # type: ignore[attr-defined]
    assert box.queries == 5


def test_transient_errors_are_retried_with_backoff(
    scripted_service: Callable[..., str], waited_seconds: list[float]
) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    def cut(handler: Any) -> None:
        handler.send((200, {"Content-Length": "500"}, b'{"probabilities"'))
        handler.close_connection = True

    busy = (429, {"Retry-After": "7"}, b"")
    box = load(scripted_service((500, {}, b""), busy, hang_up, cut, valid_response()))
    assert torch.allclose(box.query(X), torch.tensor([0.2, 0.3, 0.5]).expand(5, 3))
    assert waited_seconds == [0.5, 7.0, 2.0, 4.0]
    assert box.queries == 5, "a repeated request counts once"


def test_retry_after_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.time, "time", lambda: 784111770.0)
    dates = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:00:00 GMT", "7", "soon", "0.5", "")
    assert [client._seconds(date) for date in dates] == [7.0, 0.0, 7.0, None, None, None]


def test_timeout_raises_and_counts_queries(
    scripted_service: Callable[..., str],
) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:  # a byte now and then: no single read waits for long
        handler.send_response(200)
        handler.end_headers()
        for _ in range(40):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
            time.sleep(0.05)

    url = scripted_service(trickle)
    box, began = load(f"{url}#timeout=0.3:retries=0"), time.monotonic()
    with pytest.raises(InputError, match=rf"no valid response from {url} in 1 attempt: no response within 0.3 s"):
        box(X)
    assert time.monotonic() - began < 1.5
    assert box.queries == 5


def test_rate_limit(scripted_service: Callable[..., str], waited_seconds: list[float]) -> None:
    url = scripted_service(*map(valid_response, (2, 2, 1)), description=DESCRIPTION | {"batch_size": 2})
    box = load(f"{url}#rate=4")
    box(X)
    assert len(waited_seconds) == 4  # the description, and three queries
    assert waited_seconds[0] == 0
    assert all(0.2 < wait <= 0.25 for wait in waited_seconds[1:2])


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"num_classes": 1}, "returns a description with num_classes 1"),
        ({"num_classes": True}, "returns a description with num_classes True"),
        ({"image_shape": [28, 28]}, r"image_shape \[28, 28\]"),
        ({"answers": "poetry"}, "answers poetry"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"classes": ["a"]}, "classes"),
        ({"identity": 3}, "identity 3"),
        ({"images": "png"}, "images png"),
        ({"answers": ["labels"]}, r"answers \['labels'\]"),
        ({"answers": {}}, "answers {}"),
        ({"num_classes": 10**9}, "num_classes 1000000000"),
        ({"num_classes": 10**30}, "num_classes 1000"),
        ({"batch_size": 10**30}, "batch_size 1000"),
        ({"image_shape": [3, 60_000, 60_000]}, r"image_shape \[3, 60000, 60000\]"),
        ({"image_shape": [1, 28, float("inf")]}, "Infinity is no JSON number"),
        ({"identity": "\ud800"}, r"identity \\ud800"),
        ({"classes": ["a", "b", "\udfff"]}, "classes"),
    ],
)
def test_invalid_description_raises(
    description: dict[str, Any], message: str, scripted_service: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match=message):
        load(scripted_service(valid_response(), description=DESCRIPTION | description))


def test_invalid_address_or_settings_raise(scripted_service: Callable[..., str]) -> None:
    url = scripted_service(valid_response())
    with pytest.raises(InputError, match="takes images of 1 x 28 x 28, got 1 x 32 x 32"):
        load(url, image_shape=(1, 32, 32))
    with pytest.raises(InputError, match="holds its own weights"):
        load(url, "w.pt")
    with pytest.raises(InputError, match=r"cannot take 'speed=3', expected .* timeout, retries, rate"):
        load(f"{url}#speed=3")
    with pytest.raises(InputError, match=r"timeout must be in \(0, 3600\] seconds"):
        load(f"{url}#timeout=0")
    with pytest.raises(InputError, match="must hold no user or password, got one for host") as caught:
        load("http://me:secret@host/")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="must look like http://HOST:PORT/PATH, got 'http://h/ä'"):
        load("http://h/ä")
    with pytest.raises(InputError, match="must look like http://HOST:PORT/PATH, got 'http://h:no/'"):
        load("http://h:no/")
    with pytest.raises(InputError, match=r"no valid response from .* in 1 attempt: ConnectionRefusedError"):
        load("http://127.0.0.1:1/#retries=0")
    for host in ("[::1", "a" * 300, "...."):
        with pytest.raises(InputError, match="must look like http://HOST:PORT/PATH, got"):
            load(f"http://{host}/#retries=0")
    for rate in ("1e-300", "0", "-1"):
        with pytest.raises(InputError, match=r"rate at least 0.001"):
            load(f"{url}#rate={rate}")
    with pytest.raises(InputError, match="rate must be a finite number, got nan"):
        load(f"{url}#rate=nan")


def raw_response(sent: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: handler.wfile.write(sent) and None


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\naaaa", "no valid response from"),
        (b"HTTP/1.1 404 \x1b]0;PWN\x07\r\nContent-Length: 0\r\n\r\n", r"status 404 \\x1b]0;PWN\\x07"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x1b[2J", r"must return JSON"),
        (b"\x1b]0;PWN\x07\r\n\r\n", "no valid response from"),
    ],
)
def test_hostile_response_gives_one_printable_line(
    sent: bytes, message: str, scripted_service: Callable[..., str]
) -> None:
    box = load(f"{scripted_service(raw_response(sent))}#retries=0:timeout=5")
    with pytest.raises(InputError, match=message) as caught:
        box(X)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("description", "content", "message"),
    [
        ({"num_classes": 2}, {"probabilities": [[0.3]] * 5}, r"got \(5, 1\): torch.stack\(\[1 - p, p\], 1\)"),
        ({"num_classes": 2}, {"probabilities": [0.3] * 5}, r"got \(5,\): torch.stack\(\[1 - p, p\], 1\)"),
        ({"num_classes": 2}, {"probabilities": [-3.0] * 5}, r"got \(5,\): p = torch.sigmoid\(f\)"),
        ({}, {"probabilities": [[-1.0, -2.0, -0.5]] * 5}, r"\(logits\?\): z.softmax\(1\) makes probabilities"),
        ({"num_classes": 2, "answers": "logits"}, {"logits": [[0.3]] * 5}, r"got \(5, 1\): \[0, f\] for one logit"),
        ({"answers": "logits"}, {"logits": [[0.2, 0.3, 0.5]] * 5}, r"returns probabilities \(rows sum to 1\)"),
        ({"answers": "labels"}, {"labels": [[0.2, 0.3, 0.5]] * 5}, r"\.argmax\(1\) makes labels"),
    ],
)
def test_response_of_wrong_kind_raises_with_hint(
    description: dict[str, Any], content: dict[str, Any], message: str, scripted_service: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match=message):
        load(scripted_service((200, {}, content), description=DESCRIPTION | description))(X)


# Programs


def test_comparison_of_service_skips_gradient_attacks(
    started_service: Callable[..., str], digits: Path, tmp_path: Path
) -> None:
    arguments = [
        "--dataset",
        "folder",
        "--data-dir",
        digits,
        "--target",
        started_service(),
        "--threads",
        1,
        "--eps",
        0.3,
    ]
    arguments += ["--max-samples", 8, "--output-dir", tmp_path, "--defense", "bit-depth:bits=3"]
    run(compare.main, compare.Settings, [str(word) for word in arguments])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = [(row["attack"], row["status"]) for row in results["rows"]]
    assert rows == [("noise-uniform", "ok"), ("noise-sign", "ok")]
    assert results["target"]["label"].startswith("http://127.0.0.1:")


def substitute_arguments(url: str, digits: Path, out: Path) -> list[str]:
    arguments: list[Any] = ["--dataset", "folder", "--data-dir", digits, "--target", url, "--substitute", "mnist-small"]
    arguments += ["--threads", 1, "--width", 8, "--depth", 1, "--batch-size", 16, "--rounds", 2, "--distil-steps", 4]
    arguments += ["--generator-steps", 4, "--adversarial-images", 8, "--images", 32, "--output-dir", out]
    return [str(word) for word in arguments]


def test_substitute_of_service_within_query_budget(
    started_service: Callable[..., str], digits: Path, tmp_path: Path
) -> None:
    arguments = substitute_arguments(started_service("labels"), digits, tmp_path)
    with pytest.raises(SystemExit):  # the service returns labels only
        run(substitute.main, substitute.Settings, arguments)
    run(substitute.main, substitute.Settings, [*arguments, "--answers", "labels", "--budget", "40"])
    assert json.loads((tmp_path / "training.json").read_text())["queries"] == 40


def test_responses_before_a_failure_are_kept(
    digits: Path, tmp_path: Path, start_server: Callable[[ThreadingHTTPServer], str], classifier: Path
) -> None:
    server = service.serve(load_classifier(str(classifier / "classifier")), "probabilities", 10)
    url, requests = start_server(server), [0]
    do_post = server.RequestHandlerClass.do_POST

    def fail_once(handler: Any) -> None:
        requests[0] += 1
        if requests[0] == 3:
            handler.rfile.read(int(handler.headers["Content-Length"]))
            return handler.reply(400, {"error": "no more today"})
        return do_post(handler)

    server.RequestHandlerClass.do_POST = fail_once  # type: ignore[attr-defined]
    arguments = substitute_arguments(url, digits, tmp_path)
    with pytest.raises(SystemExit):
        run(substitute.main, substitute.Settings, arguments)
    run(substitute.main, substitute.Settings, [*arguments, "--resume"])
    # 32 images, 8 adversarial ones, and the 10 of the failed query.
    assert json.loads((tmp_path / "training.json").read_text())["queries"] == 32 + 8 + 10


def test_training_against_service_raises_with_hint(
    started_service: Callable[..., str], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = program_module("train/advgan.py")
    arguments = ["--dataset", "folder", "--data-dir", digits, "--target", started_service(), "--output-dir", tmp_path]
    with pytest.raises(SystemExit) as done:
        run(train.main, train.Settings, [str(word) for word in arguments])
    assert done.value.code == 2
    assert "without a gradient: train/substitute.py attacks such targets" in capsys.readouterr().err


@pytest.mark.program
def test_example_service_end_to_end(classifier: Path) -> None:
    arguments = [sys.executable, "examples/serve.py", "--target", classifier / "classifier", "--port", "0"]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            match = re.match(r"mnist-small is served at (http://127.0.0.1:\d+/) ", running.stdout.readline())
            assert match is not None
            assert load(match[1])(X).shape == (5, 3)
        finally:
            running.terminate()


def test_black_box_of_black_box_shares_the_service() -> None:
    def predict(x: Tensor) -> Tensor:
        return torch.tensor([[0.3, 0.7]]).expand(len(x), 2)

    box = BlackBox(predict, 2, name="it", image_shape=(1, 28, 28), classes=("a", "b"), identity="i")
    second_box, decisions = BlackBox.from_model(box, 2, max_queries=5), BlackBox.from_model(box, 2, "labels")
    assert torch.equal(second_box.query(X), box.query(X))
    assert torch.equal(decisions.query(X), torch.tensor([[0.0, 1.0]]).expand(5, 2))
    assert (box.queries, second_box.queries, second_box.remaining, decisions.queries) == (15, 5, 0, 5)
    assert (second_box.name, second_box.image_shape, second_box.classes, second_box.identity) == (
        "it",
        (1, 28, 28),
        ("a", "b"),
        "i",
    )
    with pytest.raises(InputError, match="it has a budget of 5 queries"):
        second_box.query(X)
    with pytest.raises(InputError, match="it returns labels only, expected output labels, got probabilities"):
        BlackBox.from_model(BlackBox(lambda x: [0] * len(x), 2, "labels", name="it"), 2)


def test_black_box_of_black_box_keeps_the_budget_of_the_first() -> None:
    box = BlackBox(lambda x: torch.tensor([[0.3, 0.7]]).expand(len(x), 2), 2, max_queries=7, name="it")
    unlimited = BlackBox.from_model(box, 2, "labels")
    unlimited.query(X)
    with pytest.raises(QueryBudgetExceeded, match="a budget of 7 queries, 5 of them used: a query of 5 more images"):
        unlimited.query(X)
    assert box.queries == 5


def test_black_box_from_python_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from advgan.classifiers import BlackBox\n\n"
        "def service():\n    return BlackBox(lambda x: [1] * len(x), 3, 'labels', identity='a')\n"
    )
    box = load_classifier(f"{file}:service", image_shape=(1, 28, 28), num_classes=3)
    assert isinstance(box, BlackBox)
    assert (box.name, box.image_shape, box(X).argmax(1).tolist()) == (f"{file}:service", (1, 28, 28), [1] * 5)
