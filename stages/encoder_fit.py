"""Values of params.yaml that the encoder at hand cannot have, known without opening it: numbers of blocks, sides.

The facts stand in weights/<encoder.name>/config.json, or in data/encoder/config.json if that is the encoder of this
name (and of this size, if it is no plain vision transformer). Without either the stages refuse these values, once the
encoder is fetched.
"""

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from stages import names
from stages.codebook import params as codebook
from stages.core.params import impossible, load
from stages.core.schemas import (
    ReconstructionLossConfig,
    check_blocks,
    check_perceptual,
    maps_of,
)
from stages.decoder import params as decoder
from stages.encoder.params import EncoderParams, check_equal_maps
from stages.features.params import Params as Features
from stages.recognition import params as recognition
from stages.studies.params import DecodingSteps, Probe

EMBEDDED, FETCHED = Path(__file__).parents[1] / "weights", Path("data/encoder")


def checks(params: dict[Any, Any], stages: dict[str, Any], path: Path) -> list[Callable[[], object]]:
    """One check per section; none without an encoder whose facts are known."""
    img_px, side = (names.value_at(params, f"{section}.img_px") for section in ("data", "encoder"))
    if not isinstance(img_px, int) or not isinstance(side, int):  # the checks of these sections say so
        return []
    if not (facts := facts_of(names.value_at(params, "encoder.name"), side)):
        return []
    maps = maps_of(facts)
    depth, patch_px = len(maps), facts.get("patch_px", 1)
    tokenizers = [item["item.tokenizer"] for item in names.items(stages["codebook"], params)]
    decoders = [item["item.decoder"] for item in names.items(stages["pixel_tokenizer"], params)]
    pairs = [] if side % patch_px else [*product(tokenizers, decoders)]  # check_side says so
    networks = [item["item.network"] for item in names.items(stages["recognition_network"], params)]
    return [
        partial(check_side, patch_px, path),
        partial(check_block, "features", Features, depth, path),
        partial(check_block, "probe", Probe, depth, path),
        partial(check_study, depth, path),
        *(partial(check_tokenizer, name, maps, img_px, path) for name in tokenizers),
        *(partial(check_decoder, name, depth, path) for name in decoders),
        *(partial(check_network, name, facts, img_px, path) for name in networks),
        *(partial(check_grid, *pair, maps, img_px, path) for pair in pairs),
    ]


def facts_of(name: Any, img_px: int) -> dict[str, Any]:
    """What `maps_of` reads, of the encoder of this name for images of this size; empty if it is not at hand."""
    for folder in (EMBEDDED / str(name), FETCHED):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if config["name"] == name and "maps" not in config:
                return {"img_px": img_px, **{key: int(config[key]) for key in ("depth", "patch_px", "dim")}}
            if config["name"] == name and config["img_px"] == img_px:
                return {"maps": [[int(side), int(dim)] for side, dim in config["maps"]]}
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: the stage `encoder` says so
            continue
    return {}


def check_side(patch_px: int, path: Path) -> None:
    """Refuse a side of images that is no multiple of the patch size."""
    if (img_px := load("encoder", EncoderParams, path).img_px) % patch_px:
        raise impossible("encoder.img_px", img_px, f"expected a multiple of the patch size, {patch_px} px")


def check_block(section: str, schema: type[Features | Probe], depth: int, path: Path) -> None:
    """Refuse the number of a block that the encoder lacks, in the section's key `block`."""
    refuse_blocks(f"{section}.block", [load(section, schema, path).block], depth)


def refuse_blocks(key: str, blocks: list[int], depth: int) -> None:
    """`UserError` for a number that is no block's, counted from 0 or, negative, from the end."""
    for block in blocks:
        if not -depth <= block < depth:
            raise impossible(key, block, f"the encoder has {depth} blocks: expected {-depth} … {depth - 1}")


def check_study(depth: int, path: Path) -> None:
    """Refuse blocks that the encoder lacks."""
    check_blocks(
        "decoding_steps.perceptual_blocks", load("decoding_steps", DecodingSteps, path).perceptual_blocks, depth
    )


def check_tokenizer(name: str, maps: list[tuple[int, int]], img_px: int, path: Path) -> None:
    """Refuse blocks that the encoder lacks or that cannot be joined, and halvings that do not divide the image."""
    params = codebook.load_params(name, path)
    if isinstance(params, codebook.Kmeans):
        refuse_blocks(f"codebook.{name}.blocks", params.blocks, len(maps))
        check_equal_maps(f"codebook.{name}.blocks", params.blocks, maps)
    elif isinstance(params, codebook.AutoencoderParams):
        check_perceptual(f"codebook.{name}", params, len(maps))
        halvings = len(params.widths) - 1
        if img_px % 2**halvings:
            why = f"{halvings} halvings need an image of a multiple of {2**halvings} px; data.img_px is {img_px}"
            raise impossible(f"codebook.{name}.widths", params.widths, why)


def check_decoder(name: str, depth: int, path: Path) -> None:
    """Refuse blocks that the encoder lacks."""
    params = decoder.load_params(name, path)
    if isinstance(params, ReconstructionLossConfig):
        check_perceptual(f"decoder.{name}", params, depth)


def check_network(name: str, facts: dict[str, Any], img_px: int, path: Path) -> None:
    """Refuse encoders of other kinds, blocks that the encoder lacks, and patches that do not divide the image."""
    network = recognition.load_network(name, path)
    if isinstance(network, recognition.EncoderNetwork | recognition.Random):
        if "maps" in facts:
            why = "expected other networks: the encoder is no plain vision transformer, which this kind needs"
            raise impossible(f"recognition_network.{name}.kind", network.kind, why)
        refuse_blocks(f"recognition_network.{name}.blocks", network.blocks, facts["depth"])
    if isinstance(network, recognition.Pixels) and img_px % network.patch_px:
        why = f"expected a divisor of data.img_px = {img_px}"
        raise impossible(f"recognition_network.{name}.patch_px", network.patch_px, why)


def check_grid(tokenizer: str, name: str, maps: list[tuple[int, int]], img_px: int, path: Path) -> None:
    """Refuse patches that no number of doublings turns into the image, where codes of patches are decoded so."""
    doubles = isinstance(decoder.load_params(name, path), ReconstructionLossConfig)
    if not doubles or not codebook.load_kind(tokenizer, path).reads_features:
        return
    section = codebook.load_params(tokenizer, path)
    own = section.blocks if isinstance(section, codebook.Kmeans) else []
    block = (own or [load("features", Features, path).block])[0]
    if not -len(maps) <= block < len(maps):  # the check of the blocks says so
        return
    side, encoder_px = maps[block][0], load("encoder", EncoderParams, path).img_px
    if img_px not in (side << doublings for doublings in range(img_px.bit_length())):
        why = f"block {block} has {side} patches per side, which do not become data.img_px = {img_px} by doubling"
        raise impossible("encoder.img_px", encoder_px, why)
