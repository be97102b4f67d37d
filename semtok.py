"""Loaders of trained artifacts.

import semtok
tokenizer = semtok.load_tokenizer("data/codebook/kmeans")          # .encode(images) -> codes
decoder = semtok.load_decoder("data/decoder/kmeans-onestep")       # .decode(codes) -> images
generator = semtok.load_generator("data/generator/kmeans-ar")      # .sample(classes=[3, None]) -> codes and images

Each takes a folder and device="cpu". torch is imported by the first use of a loader, not by `import semtok`.
"""

from importlib import import_module
from typing import Any

LOADERS = {
    "load_tokenizer": "stages.codebook.tokenizer",
    "load_decoder": "stages.decoder.decoder",
    "load_generator": "stages.generator.generator",
}
__all__ = ["load_decoder", "load_generator", "load_tokenizer"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name not in LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LOADERS[name]), name)


def __dir__() -> list[str]:
    return __all__
