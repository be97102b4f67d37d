"""Write the frozen encoder as an artifact: model.safetensors and config.json, in one form for all sources.

Run:    dvc repro encoder
Expect: seconds for embedded networks and local weights; one download for a timm name with hub weights.

Sources (params.yaml, section encoder):
    name: digits                                a small network pretrained in this repository (weights/digits)
    name: vit_base_patch14_reg4_dinov2.lvd142m  a plain vision transformer of timm, weights from the hub …
    weights: path/to/model.safetensors          … or from this file (offline)
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import load
from stages.encoder.params import EncoderParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", type=Path, required=True, help="folder of this repository's own networks")
    parser.add_argument("--out", type=Path, required=True, help="encoder artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params = load("encoder", EncoderParams, args.params)

    from stages.encoder.embedded import copy, is_embedded, keeps_its_size

    if is_embedded(args.embedded, params) and keeps_its_size(args.embedded, params):
        copy(args.embedded, args.out, params)
        return

    from stages.encoder.sources import fetch

    fetch(args.embedded, args.out, params)


if __name__ == "__main__":
    runtime.run(main)
