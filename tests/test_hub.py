"""`advgan push` and `pull`: a checkpoint's three files, to a folder or to a Hub that takes, refuses, or is away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from advgan import Generator, InputError, hub
from advgan.cli import main

from .conftest import ROOT


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A generator with a card, and with things beside it that stay at home."""
    folder = tmp_path / "run" / "generator"
    Generator(width=8, depth=1).save(folder, "# A card\n")
    (folder / "notes.txt").write_text("private")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_to_a_folder_and_back_it_answers_the_same(checkpoint: Path, tmp_path: Path) -> None:
    main(["push", str(checkpoint), f"{tmp_path}/handed/on"])
    main(["pull", f"{tmp_path}/handed/on", str(tmp_path / "mine")])
    for folder in (tmp_path / "handed" / "on", tmp_path / "mine"):
        assert names(folder) == ["README.md", "config.json", "model.safetensors"]
    x = torch.rand(2, 1, 12, 12)
    one, other = (Generator.from_pretrained(folder).perturb(x) for folder in (checkpoint, tmp_path / "mine"))
    assert torch.equal(one, other)


def test_what_is_there_is_replaced_on_request_and_only_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    hub.push(checkpoint, str(place))
    (checkpoint / "README.md").write_text("# Another card\n")
    with pytest.raises(InputError, match="place is there: --force replaces a checkpoint"):
        hub.push(checkpoint, str(place))
    hub.push(checkpoint, str(place), force=True)
    assert (place / "README.md").read_text() == "# Another card\n"
    (place / "generator.onnx").touch()  # of the weights that go
    hub.pull(str(checkpoint), place, force=True)
    assert names(place) == ["README.md", "config.json", "model.safetensors"]
    (place / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"place holds more than a checkpoint \(thesis\.tex\)"):
        hub.pull(str(checkpoint), place, force=True)
    assert "thesis.tex" in names(place)


def test_pickles_are_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    for call in (lambda: hub.push(checkpoint, "user/model"), lambda: hub.pull(str(checkpoint), tmp_path / "mine")):
        with pytest.raises(InputError, match=r"model\.safetensors expected \(no pickles\), found README\.md, config"):
            call()
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="is damaged"):
        hub.pull(str(checkpoint), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_the_hub_is_given_three_files_in_a_private_repository(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo: str, **words: Any) -> str:
            calls.append((repo, words))
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, **words: Any) -> None:
            calls.append(("upload", words))

    monkeypatch.setattr(hub, "HfApi", Api)
    main(["push", str(checkpoint), "user/model"])
    assert calls[0] == ("user/model", {"private": True, "exist_ok": True})
    assert calls[1][1]["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    assert calls[1][1]["folder_path"] == checkpoint
    main(["push", str(checkpoint), "user/model", "--public"])
    assert calls[2][1]["private"] is False
    assert capsys.readouterr().out == "https://huggingface.co/user/model\n" * 2


def test_the_hub_is_asked_for_three_files(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, **words: Any) -> str:
        assert (repo, words) == ("user/model", {"revision": "v1", "allow_patterns": list(hub.FILES)})
        return str(checkpoint)

    monkeypatch.setattr(hub, "snapshot_download", download)
    main(["pull", "user/model", str(tmp_path / "mine"), "--revision", "v1"])
    assert names(tmp_path / "mine") == ["README.md", "config.json", "model.safetensors"]
    with pytest.raises(InputError, match="a folder has no revisions"):
        hub.pull(str(checkpoint), tmp_path / "other", revision="v1")


@pytest.fixture
def refusing() -> Iterator[str]:
    """A Hub that knows no repository, and lets nobody write."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, **heads: str) -> None:
            self.send_response(code)
            for name, value in {**heads, "Content-Length": "0"}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def do_GET(self) -> None:
            self._answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(401)

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def said(endpoint: str, home: Path, *words: object, offline: bool = False) -> str:
    """The one line on stderr of `advgan <words>` with the Hub at `endpoint`."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-m", "advgan", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("error: "), "Traceback" in done.stderr) == (2, 1, False), done.stderr
    return done.stderr


def test_a_hub_that_refuses(checkpoint: Path, tmp_path: Path, refusing: str) -> None:
    assert "the Hub does not let you at user/model (401)" in said(refusing, tmp_path, "push", checkpoint, "user/model")
    assert "the Hub has no user/model" in said(refusing, tmp_path, "pull", "user/model", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_hub_that_is_away(checkpoint: Path, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    for words in (("push", checkpoint, "user/model"), ("pull", "user/model", tmp_path / "mine")):
        assert "the Hub cannot be reached for user/model" in said(nowhere, tmp_path, *words)
        assert "cannot be reached" in said(nowhere, tmp_path, *words, offline=True)


def test_what_is_no_repository(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="'a b' is no repository, expected USER/MODEL or a folder like"):
        hub.push(checkpoint, "a b")


def test_links_that_lead_out_and_other_files_are_not_published(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("secret")
    (checkpoint / "README.md").unlink()
    (checkpoint / "README.md").symlink_to(tmp_path / "secret")
    (checkpoint / ".hidden").write_text("secret")
    os.mkfifo(checkpoint / "pipe\x1b[2J")
    main(["push", str(checkpoint), str(tmp_path / "out")])
    assert names(tmp_path / "out") == ["config.json", "model.safetensors"]
    error = capsys.readouterr().err
    assert error == r"note: not published: .hidden, README.md, notes.txt, pipe\x1b[2J, pytorch_model.bin" + "\n"
    (checkpoint / "model.safetensors").rename(tmp_path / "weights")
    (checkpoint / "model.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(InputError, match=r"model\.safetensors is a link that leads out of the folder"):
        hub.push(checkpoint, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    (checkpoint / "model.safetensors").unlink()
    (tmp_path / "weights").rename(checkpoint / "weights")
    (checkpoint / "model.safetensors").symlink_to("weights")  # stays inside
    hub.push(checkpoint, str(tmp_path / "other"))
    assert not (tmp_path / "other" / "model.safetensors").is_symlink()


@pytest.mark.parametrize("place", ["/proc/advgan", "{tmp}/file/below", "{tmp}/dangling"])
def test_places_that_cannot_be_written_are_bad_input(
    checkpoint: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    place = place.format(tmp=tmp_path)
    for words in (["push", str(checkpoint), place], ["pull", str(checkpoint), place]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        error = capsys.readouterr().err
        assert (stop.value.code, error.count("\n"), error[:7]) == (2, 1, "error: ")
