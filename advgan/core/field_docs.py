"""`help` of a dataclass of settings: its docstring, and the text below each of its fields."""

import dataclasses
import inspect
import textwrap
from typing import Any, TypeVar

from docstring_parser.attrdoc import AttributeDocstrings

T = TypeVar("T", bound=type)


def documented(cls: T) -> T:
    """A dataclass whose docstring is followed by its fields that have a text below them, with text and default."""
    doc: Any = _Doc(cls.__doc__ or "")  # a descriptor: no source is read on import
    cls.__doc__ = doc
    return cls


class _Doc:
    def __init__(self, text: str) -> None:
        self.text = inspect.cleandoc(text)

    def __get__(self, instance: Any, owner: type) -> str:
        texts = {name: text for base in reversed(owner.__mro__) for name, text in field_texts(base).items()}
        fields = [field for field in dataclasses.fields(owner) if field.name in texts]
        lines = [self.text, "", "Settings:"] if fields else [self.text]
        for field in fields:
            default = "" if field.default is dataclasses.MISSING else f" (default: {field.default!r})"
            text = f"{field.name}: {texts[field.name]}{default}"
            lines += textwrap.wrap(text, 116, initial_indent="    ", subsequent_indent=" " * 8)
        return "\n".join(lines)


def field_texts(cls: type) -> dict[str, str]:
    """The text below each field in the source of `cls`; empty where there is no source."""
    if cls is object:
        return {}
    texts = AttributeDocstrings().get_attr_docs(cls)
    return {name: inspect.cleandoc(text) for name, (text, _, _) in texts.items()}
