"""Former names of modules and functions resolve to the present ones with a deprecation warning."""

import importlib
import sys

import pytest

from advgan import attacks
from advgan.core.moved import MOVED


@pytest.mark.parametrize(("former", "present"), MOVED.items())
def test_former_module_name_is_present_module(former: str, present: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{former} has moved to {present}$"):
        module = importlib.import_module(former)
    assert module is importlib.import_module(present)
    assert module.__name__ == present


def test_bind_is_deprecated_make_attack() -> None:
    with pytest.warns(DeprecationWarning, match="has become advgan.attacks.make_attack"):
        assert attacks.bind is attacks.make_attack
    with pytest.raises(AttributeError, match="no attribute 'bound'"):
        _ = attacks.bound


def test_unknown_module_raises() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("advgan.nothing")
