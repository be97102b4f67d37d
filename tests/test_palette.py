"""What a decoder paints with: a copy of one tokenizer, or nothing; it changes with that tokenizer alone.

Run: uv run pytest tests/test_palette.py
"""

from pathlib import Path

import pytest
import toy as toys

from stages.core import artefact
from stages.core.errors import UserError
from stages.palette.reader import paint_of

RENDER = "stages.palette.pick --name render --codebooks data/codebook --out data/palette/render"


def write_tokenizer(name: str, kind: str, weights: bytes) -> None:
    """A codebook artefact as far as a palette looks into it; one of kind vqgan has a decoder inside."""
    with artefact.new_artefact(Path("data/codebook") / name, "codebook", {"tokenizer": kind}) as folder:
        (folder / "encoder.safetensors").write_bytes(weights)
        if kind == "vqgan":
            with artefact.new_artefact(folder / "decoder", "decoder", {}) as inner:
                (inner / "model.safetensors").write_bytes(weights)


@pytest.fixture
def root(workdir) -> Path:
    toys.write_params(workdir, {"tokenizers": ["kmeans", "paint"], "palette": {"render": "paint", "blind": "kmeans"}})
    write_tokenizer("kmeans", "kmeans", b"1")
    write_tokenizer("paint", "vqgan", b"2")
    return workdir


def test_a_palette_is_a_checked_copy_of_the_tokenizer_with_its_decoder(root):
    toys.run_line(RENDER, root)
    paint = paint_of(root / "data/palette/render")
    assert paint is not None and toys.hashes(paint) == toys.hashes(root / "data/codebook/paint")
    assert artefact.read_config(paint / "decoder", "decoder")
    (root / "data/codebook/paint/decoder/model.safetensors").write_bytes(b"3")
    with pytest.raises(UserError, match="sha256 differs"):
        toys.run_line(RENDER, root)


def test_a_decoder_that_is_not_named_has_an_empty_palette(root):
    toys.run("palette", root)
    assert paint_of(root / "data/palette/onestep") is None
    assert [*toys.hashes(root / "data/palette/onestep")] == ["config.json"]


def test_it_changes_with_its_own_tokenizer_alone(root):
    def made() -> dict[str, str]:
        toys.run("palette", root)
        toys.run_line(RENDER, root)
        return toys.hashes(root / "data/palette")

    before = made()
    toys.write_params(
        root, {"tokenizers": ["kmeans", "paint", "more"], "palette": {"render": "paint", "later": "more"}}
    )
    write_tokenizer("more", "vqgan", b"4")
    write_tokenizer("kmeans", "kmeans", b"5")
    assert made() == before
    write_tokenizer("paint", "vqgan", b"6")
    changed = {name for name, digest in made().items() if digest != before[name]}
    assert changed and all(name.startswith("render/") for name in changed)


@pytest.mark.parametrize(
    ("name", "tokenizers", "said"),
    [
        (
            "blind",
            ["kmeans"],
            "palette.blind = 'kmeans': expected a tokenizer that paints, of kind vqgan or fsq; it is",
        ),
        ("render", ["kmeans"], "palette.render = 'paint': expected one of `tokenizers`: kmeans"),
        ("render", ["paint"], "data/codebook/paint: no artefact here"),
    ],
)
def test_what_cannot_paint_is_refused(name, tokenizers, said, root):
    toys.write_params(root, {"tokenizers": tokenizers, "palette": {"render": "paint", "blind": "kmeans"}})
    if "no artefact" in said:
        (root / "data/codebook/paint/config.json").unlink()
    with pytest.raises(UserError, match=said):
        toys.run_line(RENDER.replace("render", name), root)
    assert not (root / "data/palette").exists()
