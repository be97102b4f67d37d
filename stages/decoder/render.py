"""render: a transformer from the codes to those of a pixel tokenizer, whose frozen decoder paints (DiGIT's stage 2).

The two tokenizers encode the same moved images; the transformer alone learns. Its likelihood of the pixel codes is
exact for method ar and an upper bound of nats for masked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.core import artefact, distributed
from stages.core.augment import Affine
from stages.core.choice import evenly
from stages.core.errors import UserError
from stages.core.loop import Optim, check_shares
from stages.core.loop import fit as train
from stages.core.params import Machine, Section, impossible
from stages.core.plan import print_plan
from stages.core.trunk import Trunk
from stages.data.reader import image_facts
from stages.decoder.sources import Sources
from stages.palette.reader import paint_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.decoder.pairs import Codes, Pairs
    from stages.decoder.renderer import RenderDecoder, Renderer

SHOWN = 16  # val images in the picture
LIKELIHOOD_BATCH = 64  # images at once; masks are drawn for so many, so no setting may change it


class Sampling(Section):
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    steps: int = Field(gt=0, le=1024)  # method: masked
    choice_temperature: float = Field(ge=0)  # method: masked


class Params(Section):
    kind: Literal["render"]
    method: Literal["ar", "masked"]
    model: Trunk
    sampling: Sampling
    augment: Affine
    optim: Optim


def check(section: str, sources: Sources, params: Params) -> None:
    """A palette without a tokenizer, or with one for images of another size, is an error; too many steps, too."""
    check_shares(f"{section}.optim", params.optim)
    paint, name = paint_of(sources.palette), section.split(".")[1]
    if paint is None:
        raise UserError(f"params.yaml: palette.{name}: missing; {name} paints with a tokenizer of kind vqgan or fsq")
    made_px = artefact.read_config(paint / "decoder", "decoder")["img_px"]
    if made_px != (img_px := image_facts(sources.images)["img_px"]):
        raise UserError(f"{sources.palette}: paints {made_px} px, {sources.images} has {img_px} px. Run `dvc repro`.")
    check_steps(section, params, artefact.read_config(paint, "codebook")["num_patches"])


def check_steps(section: str, params: Params, num_patches: int) -> None:
    """`UserError` for more steps than pixel codes, since each step of method masked settles at least one."""
    if params.method == "masked" and (steps := params.sampling.steps) > num_patches:
        why = f"expected at most {num_patches}: an image has so many pixel codes, and a step settles at least one"
        raise impossible(f"{section}.sampling.steps", steps, why)


def facts_of(name: str, sources: Sources, params: Params, paint: Path) -> dict[str, Any]:
    """What the decoder is built from."""
    given, pixel = artefact.read_config(sources.codebook, "codebook"), artefact.read_config(paint, "codebook")
    shape = {
        "num_given": given["num_codes"], "given_patches": given["num_patches"],
        "num_codes": pixel["num_codes"], "num_patches": pixel["num_patches"],
        **params.model.model_dump(exclude={"label_smoothing"}),
    }  # fmt: skip
    own = {"method": params.method, "shape": shape, "sampling": params.sampling.model_dump()}
    inputs = {"palette": artefact.digest(sources.palette)}
    palette = artefact.read_config(sources.palette, "palette")["tokenizer"]
    return sources.facts(params.kind, name, inputs) | own | {"palette": palette}


def fit(name: str, sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and a picture go to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch
    from stages.decoder.model import load_decoder
    from stages.decoder.pairs import Pairs
    from stages.decoder.renderer import RenderDecoder, Renderer

    paint = paint_of(sources.palette)
    assert paint is not None, "checked"
    facts, device, curves = facts_of(name, sources, params, paint), pick_device(machine.device), Curves()
    torch.manual_seed(params.optim.seed)
    network = Renderer(**facts["shape"], causal=params.method == "ar").to(device)
    announce(out, network, params)
    tokenizers = load_tokenizer(sources.codebook, device), load_tokenizer(paint, device)
    pairs = Pairs(sources.images, *tokenizers, params.augment, params.optim, machine, device)
    inputs = [sources.images, sources.codebook, sources.palette]
    with distributed.process_group(), scratch(f"decoder-{out.name}", params, inputs) as work:
        train(
            network, params.optim, pairs.batches.batch_at, loss_fn(pairs, params, device),
            watcher(pairs, params.method), curves, work=work, checkpoint_secs=machine.checkpoint_secs, device=device,
            name=f"decoder {out.name}", batch_keys=pairs.batches.batch_keys,
        )  # fmt: skip
        if distributed.rank() == 0:
            decoder = RenderDecoder(network, facts, device, load_decoder(paint / "decoder", device))
            curves.log(params.optim.total_steps, **show(decoder, pairs, report, params.optim))
            curves.write(report)
            publish(out, network, paint, facts)
        distributed.barrier()


def announce(out: Path, network: Renderer, params: Params) -> None:
    """The plan: weights, optimizer and averages are five copies; activations about 25 values a position and layer.

    Logits and what the loss makes of them are three values a pixel position and code.
    """
    size = sum(p.numel() for p in network.parameters())
    positions = network.given_patches + network.num_patches
    activations = params.optim.batch_size * positions * params.model.dim * params.model.depth * 100
    images = max(params.optim.batch_size, LIKELIHOOD_BATCH)
    logits = images * network.num_patches * network.num_codes * 12
    print_plan(
        "decoder", out, {"steps": params.optim.total_steps, "parameters": size},
        disk_bytes=size * 20 + 50 * 2**20, memory_bytes=800 * 2**20 + size * 24 + activations + logits,
    )  # fmt: skip


def method_of(name: str) -> Any:
    """The module with a method's `loss` and `nats`."""
    from stages.core import causal, masking

    return {"ar": causal, "masked": masking}[name]


def loss_fn(pairs: Pairs, params: Params, device: torch.device) -> Any:
    """The method's loss under autocast, of the pixel codes alone; its masks are a function of the step.

    Images are encoded here and not ahead, in another thread: which kernel computes attention is set process-wide.
    """
    import torch

    from stages.core.device import compute
    from stages.core.rng import seed_of

    method = method_of(params.method)

    def loss(model: Renderer, pixels: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        codes = pairs.encode(pixels)
        rng = torch.Generator().manual_seed(seed_of("masks", params.optim.seed, step))
        with compute(device, params.optim.precision):
            value = method.loss(model, *codes, rng, params.model.label_smoothing)
        return value, {}

    return loss


def watcher(pairs: Pairs, method: str) -> Any:
    """step, averaged model -> nats a pixel code on plain train and val images."""

    def evaluate(step: int, model: Renderer) -> dict[str, float]:
        return {f"{name}/nats_per_code": nats_per_code(model, codes, method) for name, codes in pairs.watched.items()}

    return evaluate


def nats_per_code(model: Renderer, codes: Codes, method: str) -> float:
    """Mean -ln p a pixel code given the image's codes: the method's `nats`, with the same masks at every call."""
    import torch

    rng, total = torch.Generator().manual_seed(0), 0.0
    with torch.inference_mode():
        for given, pixel in zip(*(part.split(LIKELIHOOD_BATCH) for part in (codes.given, codes.pixel)), strict=True):
            total += float(method_of(method).nats(model, given, pixel, rng).double().sum())
    return total / codes.pixel.numel()


def show(decoder: RenderDecoder, pairs: Pairs, report: Path, optim: Optim) -> dict[str, float]:
    """PSNR in dB of train and val images as rendered, and as the pixel tokenizer paints its own codes of them.

    The picture has rows of originals, of what the pixel tokenizer makes of them, and of renderings.
    """
    import numpy as np
    import torch

    from stages.core.pictures import enlarge, grid, save_png
    from stages.core.scores import psnr

    found, size, rows = {}, pairs.infer_batch_size, []
    for split, codes in pairs.watched.items():
        own = decoder.pixel_decoder.decode(codes.pixel, batch_size=size)
        made = decoder.decode(codes.given, torch.Generator().manual_seed(optim.seed), size)
        found[f"{split}/palette_psnr_db"] = float(psnr(codes.images, own).mean())
        found[f"{split}/psnr_db"] = float(psnr(codes.images, made).mean())
        shown = evenly(len(made), SHOWN)
        rows = [pictures[shown] for pictures in (codes.images, own, made)]
    picture = grid(np.concatenate(rows), len(rows[0]), enlarge(rows[0].shape[1]))
    save_png(report / "pictures" / "rendered.png", picture)
    return found


def publish(out: Path, network: Renderer, paint: Path, config: dict[str, Any]) -> None:
    """Make the artefact: the transformer, and the pixel tokenizer's decoder in `decoder/`."""
    with artefact.new_artefact(out, "decoder", config) as folder:
        artefact.save_tensors(folder / "model.safetensors", network.state_dict())
        artefact.copy(paint / "decoder", folder / "decoder")
