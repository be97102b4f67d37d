"""Linear probes of the class from every layer of a generator, as DiGIT (NeurIPS 2024) and GigaTok (2025) measure it.

Run:    semtok run layer_probe  (one of them: semtok run layer_probe@kmeans-ar)
Expect: digits: 10 s per generator.

The network is frozen, is given no class and no caption, and reads the codes of real images, none of them masked; the
encoder of an alternating generator reads the images. A layer's feature is the mean over positions of what a block
reads, or of what the last one gives: layer 0 is the embeddings, layer n stands after n blocks. metrics.json has

    trained, untrained  accuracy on val of the best layer, the middle and the last, of this network and of one with
                        random weights; train images alone decide which is the best: layers are compared on parts of
                        train that a head was fitted without (held_out)
    layers              accuracy and held_out of every layer of both
    codes               accuracy from the share of each code in an image (bag) and from their mean vector (vectors)

_std is the deviation between heads fitted on parts of train, _image_std the standard error over val images. The study
`probe` has the same of the frozen encoder and of raw pixels.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import LayerProbe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--generator", type=Path, help="generator artifact that reads codes; with --tokens, --codebook")
    read.add_argument("--encoder", type=Path, help="encoder artifact; with --images")
    parser.add_argument("--tokens", type=Path, help="tokens artifact")
    parser.add_argument("--codebook", type=Path, help="codebook artifact: the vectors of the codes")
    parser.add_argument("--images", type=Path, help="images artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    needed = (args.tokens, args.codebook) if args.generator else (args.images,)
    if None in needed:
        parser.error("expected --generator, --tokens and --codebook, or --encoder and --images")
    params, machine = load("layer_probe", LayerProbe, args.params), load("machine", Machine, args.params)
    from stages.studies.generator_layers import probe_codes, probe_pixels

    if args.generator:
        probe_codes(args.tokens, args.codebook, args.generator, args.report, params, machine)
    else:
        probe_pixels(args.images, args.encoder, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
