"""The samples artifacts that `generation` scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import UserError, artifact
from stages.decoder.decoder import check_drawn, samples_stage
from stages.evaluate.params import Inputs


@dataclass(frozen=True)
class Samples:
    """codes [seeds, num, N], labels int64 [num] (the requested class, -1 without), the artifact's config and `num`
    captions, none if those were not asked for."""

    codes: np.ndarray
    labels: np.ndarray
    config: dict[str, Any]
    captions: tuple[str, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """One per set of codes: it was drawn, and is decoded, under that seed."""
        return self.config["seeds"]

    def asked_for(self, sample: int) -> str:
        """The caption or the name of the class that a sample was drawn for; empty without, and for number -1."""
        if sample < 0:
            return ""
        if self.captions:
            return self.captions[sample]
        return self.config["classes"][self.labels[sample]] if self.labels[sample] >= 0 else ""


def load_samples(folder: Path) -> Samples:
    """The samples artifact in `folder`."""
    config = artifact.read_config(folder, "samples")
    codes, labels = (np.load(artifact.checked(folder, name)) for name in ("codes.npy", "labels.npy"))
    if codes.ndim != 3 or len(labels) != codes.shape[1]:
        shapes = f"codes {list(codes.shape)} do not fit labels {list(labels.shape)}"
        raise UserError(f"{folder}: {shapes}. Run `dvc repro samples`.")
    captions = folder / "captions.txt"
    return Samples(codes, labels, config, (*captions.read_text().split("\n"),) if captions.is_file() else ())


def open_samples(inputs: Inputs, folder: Path, generators: list[str]) -> dict[str, Samples]:
    """The samples by generator; a missing artifact or codes of another tokenizer are an error at once."""
    samples = {name: load_samples(folder / name) for name in generators}
    codes = tokenizer_facts(inputs.decoder)["codes"]
    for name, drawn in samples.items():
        check_drawn(folder / name, drawn.config, inputs.decoder)
        stage = f"{samples_stage(drawn.config)}@{folder.name}-{name}"
        artifact.check_made_from(folder / name, stage, images=inputs.images)
        if drawn.codes.shape[2] != codes:
            found = f"{drawn.codes.shape[2]} codes per image, {inputs.decoder} takes {codes}"
            raise UserError(f"{folder / name}: {found}. Run `dvc repro`.")
    return samples


def tokenizer_facts(decoder: Path) -> dict[str, Any]:
    """What a decoder's config says about its tokenizer; `codes` is their number per image."""
    config = artifact.read_config(decoder, "decoder")
    codes = config["codebooks"] * config["grid"] ** 2
    return {"name": config["tokenizer"], "num_codes": config["num_codes"], "codes": codes}
