"""Schedules, checkpoints, artifacts, batches: what every stage stands on.

Run: uv run pytest tests/test_core.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.core import UserError, artifact, scratch
from stages.core.checkpoint import Checkpoint
from stages.core.distributed import epoch_batch, seed_of
from stages.core.hardware import _has_instructions, compute, pick_device, process_group
from stages.core.images import random_maps, seeded_maps, warp
from stages.core.optimizer import Ema, NonFiniteMonitor, adamw, lr_at
from stages.core.params import Section
from stages.core.results import Curves
from stages.core.schemas import Affine, Optim

STILL = {"degrees": 0, "scale": 0, "translate": 0, "shear": 0, "hflip": False}


def test_the_learning_rate_at_named_steps():
    long = optim(lr_peak=1.0, warmup_share=0.091, total_steps=110)
    rate = {step: lr_at(step, long) for step in (0, 9, 10, 60, 110)}
    assert rate == pytest.approx({0: 0.1, 9: 1.0, 10: 1.0, 60: 0.5, 110: 0.0})


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_every_epoch_sees_every_item_once_whatever_the_batch_size(count, batch_size, seed):
    seen = np.concatenate([epoch_batch(s, count=count, batch_size=batch_size, seed=seed) for s in range(count)])
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_seeds_have_names_and_do_not_depend_on_the_process():
    assert seed_of("decoder", 0, 17) == 4732840052481619518
    assert len({seed_of("a", i) for i in range(1000)}) == 1000
    assert seed_of("a", 12) != seed_of("a1", 2)


def test_the_average_follows_the_formula_and_forgets_the_start():
    model = torch.nn.Linear(1, 1, bias=False)
    ema, expected = Ema(model, 0.5), float(model.weight.detach())
    for step in range(20):
        with torch.no_grad():
            model.weight.fill_(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        ema.update(model, step)
    assert float(ema.tensors["weight"]) == pytest.approx(expected)


def optim(**changes) -> Optim:
    base = dict(total_steps=5, batch_size=2, lr_peak=0.1, warmup_share=0.2, weight_decay=0.1, beta2=0.9, clip_norm=1.0)
    return Optim(**{**base, "ema_decay": 0.9, "eval_share": 1.0, "precision": "fp32", "seed": 0, **changes})


@pytest.fixture
def group():
    """The process group of one process."""
    with process_group():
        yield


def checkpoint_of(folder, model, optimizers=None, averages=None) -> Checkpoint:
    return Checkpoint(folder, 1.0, {"m": model}, optimizers or {}, averages or {})


def test_a_checkpoint_restores_models_optimizers_and_averages_to_the_bit(tmp_path, group):
    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer, Ema]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        return model, adamw(model, optim()), Ema(model, 0.9)

    def step(model, optimizer, ema, number: int) -> None:
        torch.manual_seed(number)
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step(), optimizer.zero_grad(), ema.update(model, number)

    whole = fresh()
    for number in range(6):
        step(*whole, number)
    half = fresh()
    for number in range(3):
        step(*half, number)
    checkpoint = checkpoint_of(tmp_path, half[0], {"m": half[1]}, {"m": half[2]})
    checkpoint.save({"step": 3})
    step(*half, 3)  # while it is written
    checkpoint.finish()
    again = fresh()
    assert checkpoint_of(tmp_path, again[0], {"m": again[1]}, {"m": again[2]}).load() == {"step": 3}
    for number in range(3, 6):
        step(*again, number)
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name])
    assert all(torch.equal(tensor, again[2].tensors[name]) for name, tensor in whole[2].tensors.items())


def test_a_half_written_checkpoint_is_never_read(tmp_path, group):
    (tmp_path / "000000007").mkdir()
    (tmp_path / "000000007/__0_0.distcp").write_bytes(b"half")
    checkpoint = checkpoint_of(tmp_path, torch.nn.Linear(1, 1))
    assert checkpoint.load() is None
    checkpoint.save({"step": 1})
    checkpoint.finish()
    assert checkpoint.load() == {"step": 1} and [path.name for path in tmp_path.glob("0*")] == ["000000001"]


@pytest.mark.parametrize("name", ["latest.json", "000000001/__0_0.distcp", "000000001/.metadata", "step-1.png"])
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content.replace(b"1", b"3"), None])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_begins_anew(name, damage, tmp_path, group, capsys):
    (tmp_path / "step-1.png").write_bytes(b"picture 1")
    checkpoint = checkpoint_of(tmp_path, torch.nn.Linear(1, 1))
    checkpoint.models["m"].bias.data.fill_(float(np.frombuffer(b"1111", np.float32)[0]))
    checkpoint.save({"step": 1, "curves": [[1, {"loss": 0.11}]]})
    checkpoint.finish()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage(content)) if damage else (tmp_path / name).unlink()
    assert checkpoint.load() is None
    if damage or name != "latest.json":  # without it a training begins anew, as after a kill before the first save
        assert (tmp_path / "latest.json.damaged").is_file()
        assert "damaged since it was written: set aside, and the training begins anew" in capsys.readouterr().out
    checkpoint.save({"step": 2})
    checkpoint.finish()
    assert checkpoint.load() == {"step": 2}


def test_pictures_of_steps_after_the_checkpoint_do_not_count_and_go_when_it_is_loaded(tmp_path, group):
    checkpoint = checkpoint_of(tmp_path, torch.nn.Linear(1, 1))
    checkpoint.save({"step": 1})
    checkpoint.finish()
    (tmp_path / "step-2.png").write_bytes(b"drawn before a kill")
    assert checkpoint.load() == {"step": 1} and not (tmp_path / "step-2.png").exists()


def test_the_monitor_names_the_first_bad_step_and_its_batch():
    monitor = NonFiniteMonitor(torch.device("cpu"))
    monitor.update(3, torch.tensor(1.0))
    monitor.check(str)
    monitor.update(4, torch.tensor(float("nan")))
    monitor.update(5, torch.tensor(float("inf")))
    with pytest.raises(UserError, match="step 4, on the batch images of 4"):
        monitor.check(lambda step: f"images of {step}")


def test_an_artifact_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), artifact.new_artifact(tmp_path / "a", "thing", {}) as folder:
        (folder / "x").write_text("1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with artifact.new_artifact(tmp_path / "a", "thing", {"units": "px"}) as folder:
        (folder / "x").write_text("1")
    config = artifact.read_config(tmp_path / "a", "thing")
    assert config["units"] == "px" and config["files"] == {"x": artifact.sha256(tmp_path / "a/x")}
    with pytest.raises(UserError, match="holds a 'thing' artifact, expected 'encoder'"):
        artifact.read_config(tmp_path / "a", "encoder")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"artifact": "thing"}', "\xff"])
def test_a_damaged_config_is_refused_with_the_way_out(text, tmp_path):
    with artifact.new_artifact(tmp_path / "a", "thing", {"size": 17, "ünits": [0.1, None]}) as folder:
        (folder / "x").write_text("1")
    path = tmp_path / "a/config.json"
    whole = path.read_text()
    for damaged in (text, whole.replace("17", "16"), whole[:-3], whole.replace('"checksum"', '"checksun"')):
        path.write_bytes(damaged.encode("latin-1"))
        for read in (lambda: artifact.read_config(tmp_path / "a", "thing"), lambda: artifact.digest(tmp_path / "a")):
            with pytest.raises(UserError, match="a/config.json: cut or edited.*`dvc checkout`.*`semtok doctor`"):
                read()
    path.write_text(whole.replace("\n", "\n "))  # the same content
    assert artifact.checked(tmp_path / "a", "x").read_text() == "1"


def test_still_maps_leave_images_unchanged_and_hflip_flips_them():
    images, rng = torch.rand(8, 3, 12, 12), torch.Generator().manual_seed(0)
    torch.testing.assert_close(warp(images, random_maps(8, Affine(**STILL), rng)), images, atol=1e-5, rtol=0)
    mirrored = warp(images, random_maps(8, Affine(**{**STILL, "hflip": True}), rng))
    kinds = [
        (torch.allclose(out, image, atol=1e-5), torch.allclose(out, image.flip(-1), atol=1e-5))
        for out, image in zip(mirrored, images, strict=True)
    ]
    assert set(kinds) == {(True, False), (False, True)}


@pytest.mark.parametrize("hflip", [False, True])
def test_a_map_of_ones_own_does_not_depend_on_the_others(hflip):
    params = Affine(degrees=30.0, scale=0.2, translate=0.1, shear=0.3, hflip=hflip)
    alone = [random_maps(1, params, torch.Generator().manual_seed(seed)) for seed in (3, 1, 4)]
    assert torch.equal(seeded_maps([3, 1, 4], params), torch.cat(alone)) and not torch.equal(alone[0], alone[1])


def test_curves_are_written_once_for_each_step_and_again_after_a_resume(tmp_path):
    curves = Curves()
    curves.log(5, loss=1.0, **{"val/loss": 2.0})
    curves.log(10, loss=0.5)
    for _ in range(2):
        curves.write(tmp_path / "out", images="0123456789ab")
        rows = (tmp_path / "out/plots/metrics/loss.tsv").read_text().split()
        assert rows == ["step", "loss", "5", "1.0", "10", "0.5"]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics == {"loss": 0.5, "val": {"loss": 2.0}, "step": 10, "images": "0123456789ab"}


def test_an_absent_gpu_is_an_error_that_says_so():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="0 usable GPUs"):
            pick_device("cuda")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("instructions", "dtype"), [(["avx2"], torch.float32), (["avx2", "avx512_bf16"], torch.bfloat16)]
)
def test_a_cpu_that_would_emulate_bf16_computes_in_fp32_and_says_so_once(instructions, dtype, monkeypatch, capsys):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"} | dict.fromkeys(instructions, True)
    )
    _has_instructions.cache_clear()
    for _ in range(2):
        with compute(torch.device("cpu"), "bf16"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    _has_instructions.cache_clear()
    said = capsys.readouterr().out
    assert said.count("no instructions for bf16: fp32 instead") == (dtype == torch.float32)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_no_process_begins_before_the_finished_work_of_an_accepted_run_is_removed(rank, monkeypatch):
    class Params(Section):
        value: int

    out, seen = Path("data/thing"), []
    out.mkdir(parents=True)
    with scratch.scratch(out, Params(value=1), []) as work:
        (out / "file").write_text("x")
    lock = {"stages": {"thing": {"outs": [{"path": "data/thing", "md5": scratch.dvc_hash(out)}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    assert scratch.accepted(work)
    monkeypatch.setenv("RANK", rank)
    if rank == "1":
        shutil.rmtree(work)  # as rank 0 does before it meets the others
    with scratch.scratch(out, Params(value=1), [], meet=lambda: seen.append(work.exists())) as again:
        assert again == work and seen == [False] and not any(work.iterdir())
