"""Make one tokenizer, of any kind: a codebook artefact with all that turns images into codes.

Run:    dvc repro codebook                (one of them: dvc repro codebook@vqgan)
Expect: digits: k-means 20 s, cluster half a minute, vqkd 2 minutes, each painting kind 2 to 4 minutes on two cores with
        bf16 instructions, twice that without.

Every name in `tokenizers` has a section `codebook.<name>` in params.yaml, whose `kind` says what it is:
    kmeans   faiss k-means on patch features of a frozen encoder (DiGIT)
    cluster  online clustering of the same features, dead codes put back among them (VQ-KD paper's Cluster)
    vqkd     an encoder trained from scratch whose codes must tell the frozen encoder's features (VQ-KD)
    vqgan    convolutional autoencoder with a vector-quantised bottleneck, L1 + perceptual + GAN
    fsq      the same network with finite scalar quantisation
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

from stages.codebook import cluster, fsq, kmeans, vqgan, vqkd
from stages.codebook.sources import Sources
from stages.core import artefact, runtime
from stages.core.params import Machine, Section, impossible, load, load_value

KINDS: dict[str, ModuleType] = {
    "kmeans": kmeans,
    "cluster": cluster,
    "vqkd": vqkd,
    "vqgan": vqgan,
    "fsq": fsq,
}


def load_params(name: str, path: Path = Path("params.yaml")) -> tuple[ModuleType, Section]:
    """The module of a tokenizer's kind and its params; `UserError` for an unknown kind."""
    section = f"codebook.{name}"
    kind = load_value(f"{section}.kind", path)
    if kind not in KINDS:
        raise impossible(f"{section}.kind", kind, f"expected one of {', '.join(KINDS)}")
    return KINDS[kind], load(section, KINDS[kind].Params, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which tokenizer")
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact")
    parser.add_argument("--features", type=Path, required=True, help="features artefact, of that encoder")
    parser.add_argument("--out", type=Path, required=True, help="codebook artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and curves")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    kind, params = load_params(args.name, args.params)
    sources = Sources(args.images, args.encoder, args.features)
    for needed in (sources.images, sources.encoder, sources.features):
        artefact.find(needed)
    kind.check(f"codebook.{args.name}", sources, params)
    kind.fit(sources, args.out, args.report, params, load("machine", Machine, args.params))


if __name__ == "__main__":
    runtime.run(main)
