"""Docstrings of dataclasses of settings."""

import inspect
from dataclasses import dataclass

import pytest

import advgan
from advgan.core.field_docs import documented


@dataclass(frozen=True, kw_only=True)
class Base:
    steps: int = 3
    """Number of steps"""


@documented
@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """A config."""

    eps: float
    """Radius of the ball,
    in pixel units"""
    other: int = 0
    steps: int = 4


def test_docstring_has_the_text_and_the_default_of_each_field() -> None:
    expected = (
        "A config.\n\nSettings:\n    steps: Number of steps (default: 4)\n    eps: Radius of the ball, in pixel units"
    )
    assert inspect.getdoc(Config) == expected
    assert Base.__doc__ == "Base(*, steps: int = 3)"


def test_without_source_the_docstring_is_the_classs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "getsource", lambda _: (_ for _ in ()).throw(OSError("no source")))
    assert Config.__doc__ == "A config."


@pytest.mark.parametrize("name", ["LossConfig", "GeneratorConfig", "OptimizationConfig", "RunConfig", "DetectorConfig"])
def test_every_public_setting_is_explained(name: str) -> None:
    cls = getattr(advgan.training, name)
    doc = inspect.getdoc(cls) or ""
    assert [field for field in cls.__dataclass_fields__ if f"{field}: " not in doc and f" {field} " not in doc] == []
