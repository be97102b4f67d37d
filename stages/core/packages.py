"""Let a package offer its loader (`from stages.codebook import load_tokenizer`) without importing torch before use."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def offer(name: str, module: str) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562) that imports `name` from `module` when it is first asked for."""

    def getattr_(asked: str) -> Any:
        if asked != name:
            raise AttributeError(asked)
        return getattr(import_module(module), name)

    return getattr_
