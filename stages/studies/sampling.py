"""Samples of a generator over grids of sampling settings, scored; and val images of which it draws parts anew.

Run:    semtok run sampling        (after semtok set @presets/sampling_study.yaml; one: sampling@kmeans-onestep-ar)
Expect: nothing by default: sampling.grids is empty. Digits: 3 to 6 s for each combination of settings, once: scores are
        kept in scratch/ under their settings, so that a value added to a list computes its own points alone.

metrics.json has `own`, the scores of the settings in samples.<generator>, `val`, those of real val images, and the
points of every grid. Metrics are those of the stage `generation`, without KID; _std is between sampling seeds. In a
grid with real_codes, samples begin with that share of the codes of val images, and have their classes: the first codes
for kind ar, codes at random places for kind masked. pictures/edited.png shows edits: see its protocol.
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.core.params import Machine, load
from stages.core.results import write_metrics
from stages.generator.alternating_params import load_sampling
from stages.studies.params import SamplingStudy
from stages.studies.sampling_grids import Inputs, load_grids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: the embedded feature extractor")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: another extractor")
    parser.add_argument("--reference", type=Path, required=True, help="reference artifact: real images")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact: encodes images to be edited")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens artifact: real codes")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact")
    parser.add_argument("--generator", type=Path, required=True, help="generator artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("sampling", SamplingStudy, args.params), load("machine", Machine, args.params)
    config = artifact.read_config(args.generator, "generator")
    named = (config["name"], config["kind"], args.params)
    own, grids = load_sampling(*named), load_grids(*named)
    (args.report / "pictures").mkdir(parents=True, exist_ok=True)
    if not grids and not params.edited_images:
        write_metrics(args.report, {"images": artifact.images_digest(args.generator)})
        return

    from stages.studies.sampling_scores import measure

    inputs = Inputs(args.images, args.encoder, args.classifier, args.reference, args.decoder,
                    args.codebook, args.tokens, args.generator)  # fmt: skip
    measure(inputs, args.report, own, grids, params, machine)


if __name__ == "__main__":
    runtime.run(main)
