"""What a decoder depends on by its kind: a copy of its pixel tokenizer, and its code; neither changes without need.

Run: uv run pytest tests/test_pixel_tokenizer.py
"""

from pathlib import Path

import pytest
import toy as toys

from stages.codebook.params import KINDS as TOKENIZER_KINDS
from stages.core import UserError, artifact, code
from stages.decoder.params import KINDS
from stages.decoder.pixel_tokenizer import codebook_in

MODULES = {module for kind in [*KINDS.values(), *TOKENIZER_KINDS.values()] for module in (kind.fit, kind.load)}


def pick(root: Path, *decoders: str) -> dict[str, str]:
    """Hashes of all that the command writes for these decoders."""
    for decoder in decoders:
        toys.run_line(toys.COMMANDS["pixel_tokenizer"].replace("onestep", decoder), root)
    return {
        f"{folder}/{name}": digest
        for folder in ("pixel_tokenizer", "decoder_code")
        for name, digest in toys.hashes(root / "data" / folder).items()
    }


def write_tokenizer(name: str, kind: str, weights: bytes) -> None:
    """A codebook artifact as far as the command reads it; one of kind vqgan has a decoder inside."""
    with artifact.new_artifact(Path("data/codebook") / name, "codebook", {"kind": kind, "name": name}) as folder:
        (folder / "encoder.safetensors").write_bytes(weights)
        if kind == "vqgan":
            with artifact.new_artifact(folder / "decoder", "decoder", {"kind": "onestep"}) as inner:
                (inner / "model.safetensors").write_bytes(weights)


def write_code(module: str, text: str = "0") -> None:
    """The file that the stage `code` writes for a kind."""
    code.write_lines(code.CODE / "kinds" / module.removeprefix("stages."), {f"{module}.py": text})


@pytest.fixture
def root(workdir) -> Path:
    chosen = {"render_ar": "pixels", "diffusion": "kmeans"}
    toys.write_params(workdir, {"tokenizers": ["kmeans", "pixels"], "pixel_tokenizer": chosen})
    write_tokenizer("kmeans", "kmeans", b"1")
    write_tokenizer("pixels", "vqgan", b"2")
    for module in MODULES:
        write_code(module)
    return workdir


def test_it_is_a_checked_copy_of_the_tokenizer_with_its_decoder(root):
    pick(root, "render_ar")
    copy = codebook_in(root / "data/pixel_tokenizer/render_ar")
    assert copy is not None and toys.hashes(copy) == toys.hashes(root / "data/codebook/pixels")
    config = artifact.read_config(root / "data/pixel_tokenizer/render_ar", "pixel_tokenizer")
    assert (config["name"], config["tokenizer"]) == ("render_ar", "pixels")
    assert artifact.read_config(copy / "decoder", "decoder")
    (root / "data/codebook/pixels/decoder/model.safetensors").write_bytes(b"3")
    with pytest.raises(UserError, match="sha256 differs"):
        pick(root, "render_ar")


def test_a_decoder_outside_the_section_has_an_empty_one(root):
    assert "pixel_tokenizer/onestep/config.json" in pick(root, "onestep")
    assert codebook_in(root / "data/pixel_tokenizer/onestep") is None


def test_it_changes_with_its_own_tokenizer_alone(root):
    before = pick(root, "onestep", "render_ar")
    chosen = {"render_ar": "pixels", "diffusion": "more"}
    toys.write_params(root, {"tokenizers": ["kmeans", "pixels", "more"], "pixel_tokenizer": chosen})
    write_tokenizer("more", "vqgan", b"4")
    write_tokenizer("kmeans", "kmeans", b"5")
    assert pick(root, "onestep", "render_ar") == before
    write_tokenizer("pixels", "vqgan", b"6")
    changed = {name for name, digest in pick(root, "onestep", "render_ar").items() if digest != before[name]}
    assert changed and all(name.startswith("pixel_tokenizer/render_ar/") for name in changed)


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("decoder.onestep_training", {"onestep/fit"}),
        ("decoder.onestep", {"onestep/load", "render_ar/fit", "render_ar/load"}),
        ("decoder.render_training", {"render_ar/fit"}),
        ("codebook.autoencoder", {"render_ar/fit"}),
        ("decoder.diffusion_training", set()),
        ("codebook.vqgan", set()),
    ],
)
def test_the_code_changes_with_the_decoders_own_kinds_alone(edited, changed, root):
    before = pick(root, "onestep", "render_ar")
    write_code(f"stages.{edited}", "1")
    after = pick(root, "onestep", "render_ar")
    differing = {name for name, digest in after.items() if digest != before[name] and "config.json" not in name}
    assert differing == {f"decoder_code/{name}" for name in changed}


@pytest.mark.parametrize(
    ("name", "tokenizers", "message"),
    [
        ("diffusion", ["kmeans"], "= 'kmeans': expected a tokenizer with a decoder of its own; kind kmeans has none"),
        ("render_ar", ["kmeans"], "pixel_tokenizer.render_ar = 'pixels': expected one of `tokenizers`: kmeans"),
        ("render_ar", ["pixels"], "data/codebook/pixels: no artifact here"),
    ],
)
def test_an_impossible_tokenizer_is_refused(name, tokenizers, message, root):
    chosen = {"render_ar": "pixels", "diffusion": "kmeans"}
    toys.write_params(root, {"tokenizers": tokenizers, "pixel_tokenizer": chosen})
    if "no artifact" in message:
        (root / "data/codebook/pixels/config.json").unlink()
    with pytest.raises(UserError, match=message):
        pick(root, name)
    assert not (root / "data/pixel_tokenizer").exists()
