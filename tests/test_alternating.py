"""The stages of alternating generators on the toy: what they are built on, resuming, sharing, sampling, the encoder.

Run: uv run pytest tests/test_alternating.py
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import toy as toys
from ranks import run_together
from safetensors.torch import load_file

from stages.core import UserError, artifact
from stages.encoder.encoder import load_encoder
from stages.encoder.vit import ConvStem
from stages.generator.alternating_params import check_lists, kind_named
from stages.generator.generator import load_generator
from stages.generator.open_network import open_network
from stages.tokens.reader import load_tokens

FIRST = ("decoder", "generator@kmeans-ar", "generator@kmeans-masked", "frozen_networks")
TRAIN, SAMPLE = "alternating_generator", "alternating_samples"
OUT, DRAWN = Path("data/alternating_generator/kmeans-addp"), Path("data/samples/kmeans/addp")


@pytest.fixture(scope="module")
def begun(toy, tmp_path_factory) -> Path:
    """A copy of the toy with a decoder, both generators, and copies of what `addp` is built on."""
    root = shutil.copytree(toy, tmp_path_factory.mktemp("begun") / "toy", ignore=shutil.ignore_patterns("scratch"))
    for command in FIRST:
        toys.run(command, root)
    return root


@pytest.fixture(scope="module")
def made(begun, tmp_path_factory) -> Path:
    """Where one process trained it and drew samples."""
    root = copy_of(begun, tmp_path_factory.mktemp("made"))
    for command in (TRAIN, SAMPLE):
        toys.run(command, root)
    return root


def copy_of(root: Path, parent: Path) -> Path:
    return shutil.copytree(root, parent / "toy", ignore=shutil.ignore_patterns("scratch"))


def test_the_artifact_draws_codes_and_images_by_class_and_by_none(made):
    generator = load_generator(made / OUT)
    assert generator.sampling.steps == 4, "as its samples were drawn"
    drawn = generator.sample(["dark", None, 2], seed=0)
    assert drawn.codes.shape == (3, 16) and drawn.images.shape == (3, 16, 16, 3)
    assert np.array_equal(drawn.images, generator.decoder.decode(drawn.codes)), "images are those of the hard codes"
    assert generator.config["likelihood"] == {} and generator.config["kind"] == "addp"


def test_its_samples_are_an_artifact_like_any_other_and_claim_no_likelihood(made):
    config = artifact.read_config(made / DRAWN, "samples")
    assert np.load(made / DRAWN / "codes.npy").shape == (2, 20, 16)
    assert config["generator"] == {"kind": "addp", "name": "addp", "likelihood": {}}


def test_its_encoder_is_probed_by_layer_on_real_images(made):
    toys.run("alternating_layer_probe", made)
    found = json.loads((made / "reports/layer_probe/kmeans-addp/metrics.json").read_text())
    assert found["encoder"] == {"name": "addp", "condition": "none: it reads images"}
    assert {name: len(rows) for name, rows in found["layers"].items()} == {"trained": 2, "untrained": 2}
    assert found["layers"]["trained"] != found["layers"]["untrained"] and 0.25 < found["trained"]["best"] <= 1


def test_it_stands_alone(made, tmp_path):
    shutil.copytree(made / OUT, tmp_path / "alone")
    network, _, kind = open_network(tmp_path / "alone", "cpu")
    labels, plain = torch.arange(4), kind_named("addp").plain
    codes = kind.sample(network, labels, plain, seed=0)
    there, _, _ = open_network(made / OUT, "cpu")
    assert torch.equal(codes, kind.sample(there, labels, plain, seed=0))


def test_inpainting_of_real_codes_keeps_the_known_ones(made):
    network, _, kind = open_network(made / OUT, "cpu")
    val = load_tokens(made / "data/tokens/kmeans", "val")
    known = torch.from_numpy(val.codes[0].astype(np.int64))
    hidden = torch.zeros(16, dtype=torch.bool)
    hidden[[5, 6, 9, 10]] = True  # the middle of the image
    labels, plain = torch.from_numpy(val.labels), kind_named("addp").plain
    drawn = kind.fill(network, labels, known.masked_fill(hidden, 8), plain, 0)
    assert torch.equal(drawn[:, ~hidden], known[:, ~hidden]) and drawn.max() < 8


def test_its_pixel_encoder_is_an_encoder_of_the_pipeline(made, tmp_path):
    shutil.copytree(made / OUT / "encoder", tmp_path / "weights/addp")
    for img_px in (16, 32):  # its own size, and another one
        toys.write_params(tmp_path, {"encoder": {"name": "addp", "img_px": img_px}, "data": {"folder": str(tmp_path)}})
        toys.run("encoder", tmp_path)
        encoder, images = load_encoder(tmp_path / "data/encoder"), torch.rand(2, 3, img_px, img_px) * 2 - 1
        seen = encoder(images, blocks=[0], final_norm=True)[0]
        assert seen.shape == (2, (img_px // 4) ** 2, 32)
        if img_px == 16:
            network = open_network(made / OUT, "cpu")[0].network
            torch.testing.assert_close(seen, network.encoder.forward_features(images))


def test_its_pixel_encoder_is_timms_vision_transformer_on_a_convolutional_stem(made):
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    twin = timm.models.VisionTransformer(
        **size, class_token=False, global_pool="", embed_layer=lambda **_: stem_of_timm()
    ).eval()
    twin.load_state_dict(load_file(made / OUT / "encoder/model.safetensors"))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    network = open_network(made / OUT, "cpu")[0].network
    torch.testing.assert_close(twin.forward_features(images), network.encoder.forward_features(images))


def stem_of_timm() -> ConvStem:
    """The stem with what timm asks of it."""
    stem = ConvStem(4, 32, 0)
    stem.num_patches, stem.grid_size = 16, (4, 4)
    return stem


# --- what it is built on ----------------------------------------------------------------------------------------------


def test_another_generator_or_decoder_changes_nothing_that_it_is_trained_on(begun, tmp_path):
    root = copy_of(begun, tmp_path)
    before = toys.hashes(root / "data/frozen_networks")
    shutil.rmtree(root / "data/generator/kmeans-ar")
    shutil.copytree(root / "data/decoder/kmeans-onestep", root / "data/decoder/kmeans-other")
    toys.run("frozen_networks", root)
    assert toys.hashes(root / "data/frozen_networks") == before and before


WRONG = [
    ({"generator": {"addp": {"predictor": "ar"}}}, "generator.addp.predictor = 'ar': expected a member of `gen"),
    ({"generator": {"addp": {"predictor": "mask"}}}, "of kind masked: masked"),
    ({"generators": ["ar"]}, "generator.addp.predictor = 'masked': .* of kind masked: none is there"),
    ({"generator": {"addp": {"decoder": "diffusion"}}, "decoders": ["onestep", "diffusion"]},
     "generator.addp.decoder = 'diffusion': expected a member of `decoders` of kind onestep: onestep"),
    ({"generator": {"masked": {"condition": "caption"}}},
     "generator.addp.predictor = 'masked': generator.masked.condition: expected class"),
    ({"generators": ["masked", "addp"]}, "generators: addp: of a kind for alternating_generators"),
    ({"alternating_generators": ["addp", "ar"]}, "generator.ar.kind = 'ar': expected one of addp"),
    ({"alternating_generators": ["model"]}, "alternating_generators = 'model': this name has another meaning"),
    ({"generator": {"b-masked": {"base": "addp"}}, "tokenizers": ["kmeans", "kmeans-b"],
      "alternating_generators": ["b-masked"]}, "both give reports/generator/kmeans-b-masked; rename one"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_impossible_lists_and_names_are_refused(changes, said, tmp_path):
    sections = toys.PARAMS["generator"]
    for name, section in changes.get("generator", {}).items():
        changes["generator"][name] = {**sections["addp"], **section} if section.pop("base", "") else section
    with pytest.raises(UserError, match=said):
        check_lists(toys.write_params(tmp_path, changes))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [({"dim": 48}, "encoder.dim = 48: expected a multiple of 32"), ({"heads": 3}, "expected a divisor of dim = 32")],
)
def test_impossible_sizes_are_refused_before_any_work(encoder, said, begun, tmp_path):
    root = copy_of(begun, tmp_path)
    toys.write_params(root, {"generator": {"addp": {"encoder": encoder}}})
    with pytest.raises(UserError, match=said):
        toys.run(TRAIN, root)
    assert not (root / "scratch").exists() and not (root / OUT).exists()


def test_codes_of_another_codebook_are_refused(begun, tmp_path):
    root = copy_of(begun, tmp_path)
    toys.write_params(root, {"codebook": {"kmeans": {"seed": 1}}})
    for command in ("codebook", "tokens"):
        toys.run(command, root)
    with pytest.raises(UserError, match="the predictor is of other codes than data/tokens/kmeans. Run `dvc repro`"):
        toys.run(TRAIN, root)


# --- resuming and sharing ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_rerun_equals_undisturbed(begun, made, tmp_path):
    root = copy_of(begun, tmp_path)
    toys.write_params(root, {"machine": {"checkpoint_share": 1.0}})
    with toys.process(TRAIN, root) as child:
        while step_saved(root) < 5:
            assert child.is_alive(), "it ended before it could be killed"
            time.sleep(0.002)
        child.kill()
        child.join()
    assert not (root / OUT).exists()
    toys.run(TRAIN, root)
    assert toys.hashes(root / OUT) == toys.hashes(made / OUT)


def step_saved(root: Path) -> int:
    latest = next(root.glob("scratch/data-alternating_generator*/*/latest.json"), None)
    return json.loads(latest.read_text())["step"] if latest else 0


def test_two_processes_learn_what_one_learns_and_draw_the_same_samples(begun, made, tmp_path):
    root = copy_of(begun, tmp_path)
    assert run_together(TRAIN, root) == [0, 0]
    for name in ("model.safetensors", "encoder/model.safetensors"):
        found, expected = (load_file(folder / OUT / name) for folder in (root, made))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    shutil.rmtree(root / OUT)
    shutil.copytree(made / OUT, root / OUT)
    assert run_together(SAMPLE, root) == [0, 0]
    assert toys.hashes(root / DRAWN) == toys.hashes(made / DRAWN)
