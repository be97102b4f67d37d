"""Classes, masks and boxes from patch features: networks of every kind, layer decay, drop path, exact resume.

Run: uv run pytest tests/test_recognition.py
"""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
import toy as toys
from torch import nn

from stages.core import UserError, artifact
from stages.core.optimizer import adamw, set_lr
from stages.core.params import Machine, load
from stages.core.schemas import Optim
from stages.encoder.encoder import load_encoder
from stages.encoder.vit import build_vit
from stages.generator.transformer import TokenTransformer
from stages.recognition import training
from stages.recognition.backbone import CodeBackbone, PixelBackbone, VitBackbone, load_backbone
from stages.recognition.finetune import ClassHead
from stages.recognition.params import KINDS, EncoderNetwork, Maps, Tuning, load_data, load_network, load_task
from stages.recognition.pyramid import Scales
from stages.recognition.recognizer import Recognizer
from stages.recognition.trainer import warp_labels
from stages.recognition.training import Inputs

CPU = torch.device("cpu")
SHORT = {"total_steps": 6, "batch_size": 4, "warmup_share": 0.17, "eval_share": 0.5, "precision": "fp32"}
TASKS = {name: {"optim": SHORT} for name in ("finetune", "segmentation", "detection")}
TASKS["detection"] |= {"width": 8, "proposals": 8, "samples": 4}
UPERNET = {**toys.PARAMS["recognition"]["segmentation"]}
UPERNET |= {"upernet_width": 8, "optim": {**UPERNET["optim"], **SHORT}}


@pytest.fixture
def vit() -> VitBackbone:
    return VitBackbone(build_vit(img_px=16, patch_px=4, dim=32, depth=4, heads=2, seed=0), 16, 4, [0, 2])


def pixels(count: int = 2, img_px: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, img_px, img_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_raw_pixels_are_those_of_each_patch():
    [maps] = PixelBackbone(4, 16)(images := pixels())
    assert maps.shape == (2, 48, 4, 4)
    assert torch.equal(maps[1, :, 2, 3].view(3, 4, 4), images[1, :, 8:12, 12:16])
    with pytest.raises(UserError, match="a divisor"):
        PixelBackbone(5, 16)


def test_maps_of_the_encoder_are_its_features(toy):
    encoder = load_encoder(toy / "data/encoder")
    backbone = load_backbone("own", EncoderNetwork(kind="encoder", blocks=[-1, 0]), toy / "data", 16, CPU)
    wanted = encoder(pixels(), blocks=[1, 0], final_norm=True, precision="fp32")
    for maps, rows in zip(backbone(pixels()), wanted, strict=True):
        assert torch.allclose(maps.flatten(2).transpose(1, 2), rows, atol=1e-6)


class Codes:
    """A tokenizer of two codes: whether the first pixel of a patch is bright."""

    grid = 4

    def encode_pixels(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0, ::4, ::4] > 0).long().flatten(1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("caption", [None, {"length": 3, "vocabulary": 5}])
def test_features_of_a_generator_stand_where_their_codes_are(causal, caption):
    torch.manual_seed(0)
    network = TokenTransformer(
        num_codes=2, num_classes=0 if caption else 3, num_patches=16, grid=4, dim=32, depth=2, heads=2, dropout=0.0,
        causal=causal, positions="both", local=3, caption=caption,
    ).eval()  # fmt: skip
    backbone, images = CodeBackbone(network, Codes(), [1]).eval(), pixels()
    changed = images.clone()
    changed[0, 0, 8, 8] *= -1  # the code in the third row and column
    [before], [after] = backbone(images), backbone(changed)
    moved = ((before - after)[0].abs().amax(0) > 1e-6).flatten()
    assert before.shape == (2, 32, 4, 4) and torch.equal(before[1], after[1])
    assert moved[10] and moved[:10].any() != causal and (causal or moved.all())


def test_blocks_that_are_not_there_are_named(toy):
    with pytest.raises(UserError, match=r"recognition_network.own.blocks = 5: the encoder has 2 blocks"):
        load_backbone("own", EncoderNetwork(kind="encoder", blocks=[5]), toy / "data", 16, CPU)


def test_layer_decay_goes_from_the_head_down_and_no_block_is_left_out(vit):
    model = Recognizer(vit, nn.Linear(4, 3), Tuning(layer_decay=0.5, drop_path=0.0))
    optimizer = adamw(model, optim())
    set_lr(optimizer, 2.0)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = {name: of[id(p)] for name, p in model.named_parameters()}
    assert len(vit.vit.blocks) == 3 and len(groups) == len(of)
    scales = {"head.weight": 1, "backbone.vit.norm.weight": 1, "backbone.vit.blocks.2.mlp.fc1.weight": 1 / 2,
              "backbone.vit.blocks.0.mlp.fc1.bias": 1 / 8, "backbone.vit.pos_embed": 1 / 16}  # fmt: skip
    for name, scale in scales.items():
        assert groups[name]["lr"] == 2 * scale, name
    assert groups["head.weight"]["weight_decay"] == 0.1
    assert not groups["head.bias"]["weight_decay"] and not groups["backbone.vit.pos_embed"]["weight_decay"]


def test_a_frozen_network_has_no_gradient_and_stays_in_evaluation_mode(vit):
    model = Recognizer(vit, ClassHead(32, 2), None).train()
    model(pixels()).sum().backward()
    assert not vit.training and model.head.training
    assert not [name for name, p in model.named_parameters() if (p.grad is None) == name.startswith("head")]
    assert sorted(len(group["params"]) for group in model.parameter_groups(optim())) == [1, 3]


def optim(**changes) -> Optim:
    values = {
        **SHORT,
        "lr_peak": 1e-3,
        "weight_decay": 0.1,
        "beta2": 0.9,
        "clip_norm": 1.0,
        "ema_decay": 0.0,
        "seed": 0,
    }
    return Optim(**{**values, **changes})


def test_drop_path_skips_a_branch_of_whole_images_in_training_alone(vit):
    plain = [maps.detach() for maps in vit(pixels(400))]
    model = Recognizer(vit, nn.Identity(), Tuning(layer_decay=1.0, drop_path=0.5))
    assert all(torch.equal(a, b) for a, b in zip(model.eval()(pixels(400)), plain, strict=True))
    torch.manual_seed(0)
    first, last = model.train()(pixels(400))
    assert torch.equal(first, plain[0])  # the rate of the first block is 0
    same = (last - plain[1]).flatten(1).abs().amax(1) < 1e-6
    assert 0 <= same.float().mean() < 0.25  # both branches of block 1 and 2 are kept, each scaled


def test_a_pyramid_has_twice_the_side_per_level_and_takes_one_block_or_all():
    maps = [torch.rand(2, 16, 6, 6)]
    for levels, sides in ((4, [24, 12, 6, 3]), (2, [6, 3])):
        scales = Scales([16], levels)
        found = scales(maps)
        assert [one.shape[-1] for one in found] == sides and [one.shape[1] for one in found] == scales.dims
    assert [one.shape[-1] for one in Scales([16] * 4)(maps * 4)] == [24, 12, 6, 3]
    with pytest.raises(UserError, match="3 blocks: a pyramid of 4 levels takes 1, or 4"):
        Scales([16] * 3)


def test_labels_move_as_their_image_does():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, 2, 1] = 3
    mirrored = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    assert torch.equal(warp_labels(labels, mirrored), labels.flip(2))


def run(root: Path, task: str, scenes: Path, **changes) -> dict:
    """One task on raw pixels; its metrics."""
    path = toys.write_params(root, {"recognition": {**TASKS, "upernet": UPERNET}, **changes})
    with artifact.new_artifact(root / "network", "recognition_network", {}):
        pass
    given = Inputs(task, "pixels", scenes, root / "network", root / f"reports/{task}-pixels")
    training.train(given, load_task(task, path), load_network("pixels", path), load_data(path),
                   load("machine", Machine, path))  # fmt: skip
    return json.loads((given.report / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("finetune", {"accuracy", "chance[accuracy]"}),
        ("segmentation", {"miou", "miou_objects", "pixel_accuracy", "ceiling[miou]", "ceiling[miou_objects]",
                          "ceiling[pixel_accuracy]"}),
        ("upernet", {"miou", "ceiling[miou]"}),
        ("detection", {"ap", "ap50", "ap75"}),
    ],
)  # fmt: skip
def test_a_task_leaves_metrics_curves_and_a_picture(task, names, scenes, workdir):
    found = run(workdir, task, scenes)
    kind = "segmentation" if task == "upernet" else task
    assert names <= found.keys() and all(0 <= found[name] <= 1 for name in names)
    assert found["protocol"][0]["network"] == {"kind": "pixels", "patch_px": 4} and found["protocol"][0]["grid"] == 8
    report = workdir / f"reports/{task}-pixels"
    assert (report / f"pictures/{kind}.png").is_file() and (report / "plots/metrics/loss.tsv").is_file()


class Killed(Exception):
    pass


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_training_ends_as_an_uninterrupted_one(task, scenes, workdir, monkeypatch):
    whole = run(workdir, task, scenes)
    for folder in ("scratch", "reports"):
        shutil.rmtree(workdir / folder)
    module = import_module(KINDS[task].module).Trainer
    batch_at = module.batch_at

    def killed(self, step):
        if step == 4:
            raise Killed
        return batch_at(self, step)

    machine = {"machine": {"checkpoint_share": 1.0}}
    monkeypatch.setattr(module, "batch_at", killed)
    with pytest.raises(Killed):
        run(workdir, task, scenes, **machine)
    monkeypatch.setattr(module, "batch_at", batch_at)
    assert run(workdir, task, scenes, **machine) == whole


def test_announced_memory_counts_the_logits_of_every_pixel():
    """ADE20K: 16 images of 512 px with 151 values per pixel: 2.5 GB of logits, and as much twice more."""
    task, maps = load_task("segmentation", toys.ROOT / "params.yaml"), Maps([384], 32)
    few, many = (task.peak_bytes(0, 0, maps, 512, logits) for logits in (1, 151))
    assert many - few == 3 * 4 * 16 * 150 * 512**2
