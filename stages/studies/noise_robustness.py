"""How many codes change when Gaussian noise is added to an image: the noise study of DiGIT (NeurIPS 2024, Table 1).

Run:    semtok run noise_robustness
Expect: digits: 20 s per tokenizer; 297 images x 8 levels x 3 seeds go through the encoder.

Noise (stages/studies/noise.py) is added to the pixels of val images and not clipped, since clipping would remove it
where an image is black or white. An image gets the same noise for every tokenizer, scaled to each level. Images of one
flat color have no signal and are left out. Metrics of a level, snr_<dB>_db, are means over seeds, with _std between
them and _image_std, the standard error over val images:

    change             share of positions whose code differs
    foreground_change  the same among foreground positions (stages/studies/noise.py)
    code_cosine        cosine similarity of the code vectors before and after, mean over positions
    feature_cosine     the same of the features before quantization, in code space
    measured_snr_db    of the noise that was really added, mean over images

A tokenizer of few codes is robust because it is coarse: compare at equal codebook size or equal reconstruction error.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import NoiseRobustness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and noise_robustness.tsv")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("noise_robustness", NoiseRobustness, args.params), load("machine", Machine, args.params)
    from stages.studies.code_changes import Inputs, measure

    measure(Inputs(args.images, args.codebook), args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
