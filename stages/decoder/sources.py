"""What a decoder may be made from, and whether it was."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core import artefact
from stages.core.errors import UserError
from stages.data.reader import image_facts


@dataclass(frozen=True)
class Sources:
    """Four artefacts: `codebook` is the tokenizer whose codes it decodes, `palette` what it paints with, if so."""

    images: Path
    encoder: Path
    codebook: Path
    palette: Path

    def facts(self, kind: str, name: str, more_inputs: dict[str, str]) -> dict[str, Any]:
        """What every decoder's config says: its kind and name, the codes it takes, what it was made from."""
        book = artefact.read_config(self.codebook, "codebook")
        inputs = {"images": artefact.digest(self.images), "codebook": artefact.digest(self.codebook), **more_inputs}
        return {
            "grid": book["grid"], "groups": book["num_patches"] // book["grid"] ** 2, "num_codes": book["num_codes"],
            "img_px": image_facts(self.images)["img_px"],
            "decoder": kind, "name": name, "tokenizer": self.codebook.name, "inputs": inputs,
        }  # fmt: skip


def check_codes_of(decoder: Path, codebook: Path) -> None:
    """`UserError` for a decoder artefact that was trained on another tokenizer's codes than those of `codebook`.

    A joint decoder does not say whose it is: it lies inside its tokenizer.
    """
    found = artefact.read_config(decoder, "decoder")["inputs"].get("codebook")
    if found is not None and found != artefact.digest(codebook):
        raise UserError(f"{decoder}: was not trained on the codes of {codebook}. Run `dvc repro decoder`.")
