"""The training loop: what a training depends on.

Run: uv run pytest tests/test_loop.py
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from photos import MACHINE
from pydantic import ValidationError

from stages.core import UserError, checkpoint
from stages.core.checkpoint import Checkpoint
from stages.core.hardware import process_group
from stages.core.optimizer import adamw
from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.train import Batch, Speed, fit, load_batches, micro_batches

OPTIM = Optim(
    total_steps=3, batch_size=2, lr_peak=0.1, warmup_share=0.33, weight_decay=0.1, beta2=0.9, clip_norm=1.0,
    ema_decay=0.9, eval_share=1.0, precision="fp32", seed=0,
)  # fmt: skip


def trained(work: Path, name: str) -> torch.Tensor:
    """The weights that a training under `name` ends with; its loss draws noise."""
    (work / name).mkdir()
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)

    def loss(model: torch.nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return model(batch[0] + torch.randn(2, 3)).square().sum(), {}

    with process_group():
        fit(
            model, OPTIM, lambda step: (torch.ones(2, 3),), loss,
            lambda step, model: {}, Curves(), work=work / name, machine=MACHINE, device=torch.device("cpu"), name=name,
            batch_keys=str,
        )  # fmt: skip
    return model.weight


def test_trainings_of_equal_values_under_two_names_are_the_same(tmp_path):
    assert torch.equal(trained(tmp_path, "one"), trained(tmp_path, "two"))


@pytest.mark.parametrize(
    ("total_steps", "warmup_share", "eval_share", "expected"),
    [(280, 0.18, 0.25, (50, 70)), (28, 0.18, 0.25, (5, 7)), (3, 0.99, 0.01, (2, 1)), (1, 0.6, 1.0, (0, 1))],
)
def test_warm_up_and_evaluation_are_shares_of_the_steps_and_leave_one_to_train(
    total_steps, warmup_share, eval_share, expected
):
    shares = {"total_steps": total_steps, "warmup_share": warmup_share, "eval_share": eval_share}
    optim = Optim(**OPTIM.model_dump() | shares)
    assert (optim.warmup_steps, optim.eval_every) == expected


def test_a_warm_up_that_never_ends_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        Optim(**OPTIM.model_dump() | {"warmup_share": 1.0})


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_come_in_the_order_of_their_steps_from_any_number_of_processes(num_workers):
    machine = MACHINE.model_copy(update={"num_workers": num_workers})

    def batch_at(step: int) -> Batch:
        return torch.full((2,), step), torch.tensor([torch.get_num_threads(), os.getpid()])

    made = list(load_batches(batch_at, 3, 9, machine, torch.device("cpu")))
    assert [(step, int(batch[0][0])) for step, batch in made] == [(step, step) for step in range(3, 9)]
    makers = {int(batch[1][1]) for _, batch in made}
    assert makers == {os.getpid()} if not num_workers else len(makers) == num_workers and os.getpid() not in makers


def test_code_vectors_are_not_decayed_and_other_matrices_are():
    from stages.codebook.quantizers import Vq

    model = torch.nn.ModuleDict({"vq": Vq(8, 4, 0.25), "linear": torch.nn.Linear(4, 4)})
    decay = {id(p): group["weight_decay"] for group in adamw(model, OPTIM).param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "vq.vectors": 0.0, "linear.weight": 0.1, "linear.bias": 0.0}  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_user_keeps_its_message_in_a_loading_process(num_workers):
    def batch_at(step: int) -> Batch:
        raise UserError(f"shard {step} is broken")

    machine = MACHINE.model_copy(update={"num_workers": num_workers})
    with pytest.raises(UserError) as raised:
        next(load_batches(batch_at, 3, 9, machine, torch.device("cpu")))
    assert str(raised.value) == "shard 3 is broken"


def test_operations_are_those_of_linear_maps_and_convolutions_forward_and_twice_backward():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(4 * 64, 5))
    speed = Speed(model, OPTIM, torch.device("cpu"))
    model(torch.zeros(2, 3, 8, 8))
    speed.counted()
    model(torch.zeros(2, 3, 8, 8))  # of a later step: not counted
    assert speed.flops == 2 * 2 * (4 * 64 * 3 * 9 + 5 * 4 * 64)
    speed.peak = 30.0 * speed.flops
    progress = SimpleNamespace(format_dict={"rate": 4.0})
    assert speed.shown(progress) == {"images/s": "8", "MFU": "0.4"}
    progress.format_dict = {"rate": None, "n": 7, "initial": 5, "elapsed": 0.5}  # before the bar is first drawn
    assert speed.shown(progress) == {"images/s": "8", "MFU": "0.4"}


def test_checkpoints_take_their_share_of_the_time(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    saved = Checkpoint(tmp_path, 0.02, {}, {}, {})
    assert saved.due(last=False), "the first step shows that the disk can be written"
    saved.saved_at, saved.cost = now, 0.5
    now = 100.0 + 49 * 0.5 - 0.1
    assert not saved.due(last=False) and saved.due(last=True)
    now += 0.2
    assert saved.due(last=False)


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (12, 1), (5, 3), (4, 3), (1, 12)])
def test_micro_batches_are_equal_and_join_to_the_share(size, parts):
    batch = torch.arange(12), torch.arange(24).view(12, 2)
    cut = micro_batches(batch, size)
    assert len(cut) == parts and all(len(part[0]) == 12 // parts for part in cut)
    for whole, pieces in zip(batch, zip(*cut, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces), whole)
