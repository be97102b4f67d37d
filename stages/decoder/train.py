"""Train one decoder, of any kind, for a frozen tokenizer: from codes back to images.

Run:    dvc repro decoder       (one of them: dvc repro decoder@kmeans-onestep; on four GPUs: NPROC=4 dvc repro decoder)
Expect: digits: onestep 2 to 4 minutes on two cores, renderers up to 13; scores on val and pictures in
        reports/decoder/<tokenizer>-<decoder>/.

Every name in `decoders` has a section `decoder.<name>` in params.yaml, whose `kind` says what it is:
    onestep    convolutions that paint all codes of an image at once, L1 + perceptual + GAN
    diffusion  rectified flow from noise to pixels in a few steps, given the codes (epsilon-VAE)
    render     a transformer from the codes to those of a pixel tokenizer, whose frozen decoder paints (DiGIT stage 2)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

from stages.core import artefact, runtime
from stages.core.params import Machine, Section, impossible, load, load_value
from stages.decoder import diffusion, onestep, render
from stages.decoder.sources import Sources

# Each module has the schema `Params`, `check(section, sources, params)` and
# `fit(name, sources, out, report, params, machine)`.
KINDS: dict[str, ModuleType] = {"onestep": onestep, "diffusion": diffusion, "render": render}


def load_params(name: str, path: Path = Path("params.yaml")) -> tuple[ModuleType, Section]:
    """The module of a decoder's kind and its params; `UserError` for an unknown kind."""
    section = f"decoder.{name}"
    kind = load_value(f"{section}.kind", path)
    if kind not in KINDS:
        raise impossible(f"{section}.kind", kind, f"expected one of {', '.join(KINDS)}")
    return KINDS[kind], load(section, KINDS[kind].Params, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which decoder")
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact, for the perceptual loss")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--palette", type=Path, required=True, help="palette artefact: what it paints with")
    parser.add_argument("--out", type=Path, required=True, help="decoder artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    kind, params = load_params(args.name, args.params)
    sources = Sources(args.images, args.encoder, args.codebook, args.palette)
    for needed in (sources.images, sources.encoder, sources.codebook, sources.palette):
        artefact.find(needed)
    kind.check(f"decoder.{args.name}", sources, params)
    kind.fit(args.name, sources, args.out, args.report, params, load("machine", Machine, args.params))


if __name__ == "__main__":
    runtime.run(main, parallel=True)
