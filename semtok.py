"""Loaders of trained artifacts.

import semtok
semtok.list_artifacts("data")                                      # .type, .kind, .name, .path, .config of each
tokenizer = semtok.load_tokenizer("data/codebook/kmeans")          # .encode(images) -> codes
decoder = semtok.load_decoder("data/decoder/kmeans-onestep")       # .decode(codes) -> images
generator = semtok.load_generator("data/generator/kmeans-ar")      # .sample(classes=[3, None]) -> codes and images

Each loader takes a folder and device="cpu". A wrong argument is a `semtok.UserError` of one line. torch is imported by
the first use of a loader, not by `import semtok`.
"""

from importlib import import_module
from typing import Any

SOURCES = {
    "UserError": "stages.core",
    "list_artifacts": "stages.artifacts",
    "load_tokenizer": "stages.codebook.tokenizer",
    "load_decoder": "stages.decoder.decoder",
    "load_generator": "stages.generator.generator",
}
__all__ = ["UserError", "list_artifacts", "load_decoder", "load_generator", "load_tokenizer"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name not in SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(SOURCES[name]), name)


def __dir__() -> list[str]:
    return __all__
