"""Train an autoencoder and write its halves: the encoder with its codes, and the joint decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.codebook.sources import Sources
from stages.core import artefact
from stages.core.params import Machine, impossible
from stages.core.plan import print_plan
from stages.core.recipe import Recipe, check_perceptual
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    from torch import Tensor

    from stages.codebook.autoencoder import Autoencoder
    from stages.codebook.quantise import Fsq, Vq


class JointRecipe(Recipe):
    """An autoencoder's sizes and training; what it is quantised by, its kind adds."""

    input_noise: float = Field(ge=0)  # sigma of noise on the encoder's input while training; pixels from -1 to 1


def check(section: str, sources: Sources, params: JointRecipe) -> None:
    """Levels that do not divide the image, and blocks that the encoder has not, are errors."""
    img_px, halvings = image_facts(sources.images)["img_px"], len(params.widths) - 1
    if img_px % 2**halvings:
        why = f"{halvings} halvings need an image of a multiple of {2**halvings} px; it has {img_px}"
        raise impossible(f"{section}.widths", params.widths, why)
    check_perceptual(section, params, artefact.read_config(sources.encoder, "encoder")["depth"])


def fit_autoencoder(
    sources: Sources, out: Path, report: Path, params: JointRecipe, machine: Machine,
    quantiser: Vq | Fsq, facts: dict[str, Any], anchored: bool,
) -> None:  # fmt: skip
    """Write the codebook artefact `out`, curves to the folder `report`; `facts` enter its config.

    Usage is that of all images of a split, `watched_psnr_db` that of the images behind the curves (Game).
    """
    import torch

    from stages.codebook.anchor import warn_of_collapse
    from stages.codebook.autoencoder import Autoencoder
    from stages.codebook.usage import count_usage, write_usage
    from stages.core.device import pick_device
    from stages.core.game import Game
    from stages.core.opponent import HingeOpponent, Painted
    from stages.core.scratch import scratch
    from stages.encoder.model import load_encoder

    img_px = image_facts(sources.images)["img_px"]
    shape = {"grid": img_px >> (len(params.widths) - 1), "widths": params.widths, "blocks": params.blocks}
    activations = params.optim.batch_size * img_px**2 * max(params.widths) * 4 * 16
    counts = {"steps": params.optim.total_steps}
    print_plan("codebook", out, counts, disk_bytes=200 * 2**20, memory_bytes=800 * 2**20 + activations)
    device = pick_device(machine.device)
    torch.manual_seed(params.optim.seed)
    network = Autoencoder(quantiser, shape, params.input_noise, anchored).to(device)
    perceptual = artefact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    with scratch(f"codebook-{out.name}", params, [sources.images, sources.encoder], perceptual) as work:
        splits = {split: ImageSplit(sources.images, split, machine.num_workers) for split in ("train", "val")}
        encoder = load_encoder(sources.encoder, device)
        opponent = HingeOpponent(params, network.decoder.to_pixels.weight, encoder, device)
        game = Game(
            f"codebook {out.name}", network, lambda model, pixels: Painted(*model(pixels)), opponent,
            encoder, splits, params, machine, work, device,
        )  # fmt: skip
        game.play(lambda scores: warn_of_collapse(out.name, scores["live_fraction"], quantiser.remedy))
        network.eval()
        usage = {
            split: count_usage(codes_of(network, images, machine, device), len(quantiser.vectors))
            for split, images in splits.items()
        }
        game.curves.write(report)
        last = game.curves.last()
        write_usage(report, usage, watched_psnr_db={split: last[f"{split}/psnr_db"] for split in splits})
        inputs = {"images": artefact.digest(sources.images), "encoder": artefact.digest(sources.encoder)}
        publish(out, network, {**facts, **shape, "inputs": inputs}, img_px)


def codes_of(network: Autoencoder, split: ImageSplit, machine: Machine, device: Any) -> Iterator[Tensor]:
    """int64 [B, N], batch by batch: the codes of all plain images of a split."""
    from stages.core.pixels import to_float

    for start in range(0, len(split), machine.infer_batch_size):
        numbers = range(start, min(start + machine.infer_batch_size, len(split)))
        yield network.quantiser.assign(network.encoder(to_float(split.read(numbers), device)))


def publish(out: Path, network: Autoencoder, facts: dict[str, Any], img_px: int) -> None:
    """The codebook artefact, with the joint decoder inside."""

    from stages.codebook.autoencoder import decoder_state
    from stages.core.codes import code_dtype

    num_codes, dim = network.quantiser.vectors.shape
    shared = {"num_codes": num_codes, **{key: facts[key] for key in ("grid", "widths", "blocks")}}
    config = {**facts, **shared, "rows": "conv", "dim": dim, "dtype": code_dtype(num_codes), "normalise": False}
    joint = {
        **shared,
        "decoder": "onestep",
        "name": "joint",
        "tokenizer": out.name,
        "groups": 1,
        "img_px": img_px,
        "inputs": facts["inputs"],
    }
    with artefact.new_artefact(out, "codebook", {**config, "num_patches": facts["grid"] ** 2}) as folder:
        artefact.save_tensors(folder / "codes.safetensors", {"vectors": network.quantiser.vectors})
        artefact.save_tensors(folder / "encoder.safetensors", network.encoder.state_dict())
        with artefact.new_artefact(folder / "decoder", "decoder", joint) as inner:
            artefact.save_tensors(inner / "model.safetensors", decoder_state(network))
