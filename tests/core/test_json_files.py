"""JSON files of any origin: limits, one-line errors, and the digest of a sealed file."""

import json
import os
from pathlib import Path

import pytest

from advgan.core.errors import InputError
from advgan.core.json_files import MAX_DEPTH, check_int, check_real, object_digest, read_object, read_sealed, sealed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", r"a JSON object expected, got \[1, 2\]"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 64 levels"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "nested deeper than 64 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": 1e999}', "beyond any float"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' comes twice"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b'{"a": "\xff"}', "codec can't decode"),
        (b"{", "Expecting"),
        (b"", "Expecting value"),
        (None, "No such file"),
    ],
)
def test_read_object_errors_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read .*config.json: .*{message}") as raised:
        read_object(file)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_read_object_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match="a regular file expected, got a device or pipe"):
        read_object(tmp_path / "config.json")


def test_read_object_at_the_limits(tmp_path: Path) -> None:
    depth = MAX_DEPTH - 1
    content = {"a": json.loads("[" * (depth - 1) + "]" * (depth - 1)), "b": 10**39, "c": 1e308, "d": "ä"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_object(tmp_path / "a.json") == content


def test_digest_depends_on_content_only() -> None:
    one, other = {"a": (1, 0.3), "b": {"c": None}}, {"b": {"c": None}, "a": [1, 0.3]}
    assert object_digest(one) == object_digest(other) != object_digest(one | {"b": {"c": 0}})


def test_flipped_bits_of_sealed_file_are_refused_or_harmless(tmp_path: Path) -> None:
    file, content = tmp_path / "training.json", {"training_seconds": 1.5, "history": [{"loss": float("nan")}]}
    whole = sealed(content).encode()
    file.write_bytes(whole)
    assert str(read_sealed(file)) == str(content)
    key = range(whole.index(b'"sha256"'), whole.index(b'"sha256"') + 8)  # a digest under another key is an entry
    for i in set(range(len(whole))) - set(key):
        for bit in (1, 4, 16):
            file.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
            try:
                assert str(read_sealed(file)) == str(content)
            except InputError:
                continue
    file.write_text(json.dumps(content))
    assert str(read_sealed(file)) == str(content), "without a digest"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], -1, 11, 10**30])
def test_check_int_errors(value: object) -> None:
    with pytest.raises(InputError, match="depth must"):
        check_int("depth", value, 0, 10)


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), 1j])
def test_check_real_errors(value: object) -> None:
    with pytest.raises(InputError, match="eps must be a finite number"):
        check_real("eps", value)
