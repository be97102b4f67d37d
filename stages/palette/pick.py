"""Pick what a decoder paints with: a copy of a pixel tokenizer, or nothing.

Run:    dvc repro palette                 (one of them: dvc repro palette@onestep)
Expect: under a second. A decoder is retrained when its palette changes, not when some other tokenizer is added.

`palette` in params.yaml names a tokenizer for each decoder that needs one; a decoder that it does not name needs none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.core import artefact, runtime
from stages.core.errors import UserError
from stages.core.params import impossible, load_list, load_value
from stages.palette.reader import KIND, TOKENIZER

PAINTS = "expected a tokenizer that paints, of kind vqgan or fsq"


def load_palettes(path: Path = Path("params.yaml")) -> dict[str, str]:
    """{decoder: the tokenizer it paints with}, as params.yaml has it."""
    palettes = load_value("palette", path)
    if not isinstance(palettes, dict) or not all(isinstance(name, str) for pair in palettes.items() for name in pair):
        raise UserError(f"{path}: palette = {palettes!r}: expected a tokenizer's name for each decoder that needs one")
    return palettes


def check(name: str, tokenizer: str, tokenizers: list[str], codebooks: Path) -> Path:
    """The artefact of a tokenizer that paints; one that is not made or paints nothing is an error."""
    if tokenizer not in tokenizers:
        raise impossible(f"palette.{name}", tokenizer, f"expected one of `tokenizers`: {', '.join(tokenizers)}")
    kind = artefact.read_config(codebooks / tokenizer, "codebook")["tokenizer"]
    if not (codebooks / tokenizer / "decoder" / artefact.CONFIG).is_file():
        raise impossible(f"palette.{name}", tokenizer, f"{PAINTS}; it is of kind {kind}")
    return codebooks / tokenizer


def pick(name: str, source: Path | None, out: Path) -> None:
    """Write the palette artefact `out` of decoder `name`, a copy of the codebook artefact `source` or an empty one."""
    facts: dict[str, Any] = (
        {"tokenizer": source.name, "inputs": {"codebook": artefact.digest(source)}} if source else {}
    )
    with artefact.new_artefact(out, KIND, {"tokenizer": "", **facts}) as folder:
        if source:
            artefact.copy(source, folder / TOKENIZER)
    print(f"palette: {name} paints with {source.name if source else 'nothing'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which decoder")
    parser.add_argument("--codebooks", type=Path, required=True, help="folder with a codebook artefact a tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="palette artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    tokenizer, tokenizers = load_palettes(args.params).get(args.name), load_list("tokenizers", args.params)
    source = check(args.name, tokenizer, tokenizers, args.codebooks) if tokenizer is not None else None
    pick(args.name, source, args.out)


if __name__ == "__main__":
    runtime.run(main)
