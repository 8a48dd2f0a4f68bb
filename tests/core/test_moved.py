"""Former names of modules and functions give the present ones, with a warning that names them."""

from __future__ import annotations

import importlib
import sys

import pytest

from advgan import attacks
from advgan.core.moved import MOVED


@pytest.mark.parametrize(("former", "present"), MOVED.items())
def test_a_former_name_is_the_module_in_its_new_place(
    former: str, present: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{former} has moved to {present}$"):
        module = importlib.import_module(former)
    assert module is importlib.import_module(present)
    assert module.__name__ == present


def test_bind_is_make_attack() -> None:
    with pytest.warns(DeprecationWarning, match="has become advgan.attacks.make_attack"):
        assert attacks.bind is attacks.make_attack
    with pytest.raises(AttributeError, match="no attribute 'bound'"):
        _ = attacks.bound


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("advgan.nothing")
