"""Write what one decoder depends on by its kind: a copy of its pixel tokenizer where it needs one, and its code.

Run:    dvc repro pixel_tokenizer         (one of them: dvc repro pixel_tokenizer@onestep)
Expect: under a second: the pixel_tokenizer artifact, empty for kinds that need none, and a folder with two files:
            fit    code that trains the decoder; the stage `decoder` depends on it
            load   code that decodes with it; every later stage that uses the decoder depends on it

DVC cannot choose a dependency by a value in params.yaml. Without this stage a new tokenizer would retrain all decoders,
and an edit of diffusion would retrain onestep. The section `pixel_tokenizer` maps decoder names to tokenizer names.
"""

import argparse
from pathlib import Path

from stages.codebook.params import KINDS as TOKENIZER_KINDS
from stages.core import artifact, runtime
from stages.core.code import merge_kinds, read_lines, write_lines
from stages.core.params import load_list
from stages.decoder.params import KINDS, PARAMS, Kind, load_kind, load_params, load_pixel_tokenizers
from stages.decoder.pixel_tokenizer import check_pixel_tokenizer, write_pixel_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of the decoder")
    parser.add_argument("--codebooks", type=Path, required=True, help="folder with one codebook artifact per tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="pixel_tokenizer artifact to write")
    parser.add_argument("--code", type=Path, required=True, help="folder to write, with the code of the decoder's kind")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    kind, tokenizers = load_kind(args.name, args.params), load_list("tokenizers", args.params)
    chosen = load_pixel_tokenizers(args.params).get(args.name)
    codebook = check_pixel_tokenizer(args.name, chosen, tokenizers, args.codebooks) if chosen is not None else None
    write_pixel_tokenizer(args.name, codebook, args.out)
    vgg16 = getattr(load_params(args.name, args.params), "lpips_vgg16", "")
    write_code(args.name, kind, codebook, args.code, vgg16)


def write_code(name: str, kind: Kind, codebook: Path | None, out: Path, vgg16: str) -> None:
    """Write `fit` and `load`; with LPIPS, `fit` has a line for VGG-16's weights.

    A pixel tokenizer adds the code of its decoder to both, that of its encoder to `fit`.
    """
    fit, load = [kind.fit], [kind.load]
    if codebook:
        decoder = KINDS[artifact.read_config(codebook / "decoder", "decoder")["kind"]].load
        encoder = TOKENIZER_KINDS[artifact.read_config(codebook, "codebook")["kind"]].load
        fit, load = [*fit, encoder, decoder], [*load, decoder]
    with artifact.new_artifact(out, "decoder_code", {"name": name}) as folder:
        merge_kinds(fit, folder / "fit")
        if vgg16:
            write_lines(folder / "fit", {**read_lines(folder / "fit"), "lpips_vgg16": artifact.sha256(Path(vgg16))})
        merge_kinds(load, folder / "load")


if __name__ == "__main__":
    runtime.run(main)
