"""The training loop: what a training depends on.

Run: uv run pytest tests/test_loop.py
"""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.train import adamw, fit, prefetch

OPTIM = Optim(
    total_steps=3, batch_size=2, lr_peak=0.1, warmup_steps=1, weight_decay=0.1, beta2=0.9, clip_norm=1.0,
    ema_decay=0.9, eval_every=3, precision="fp32", seed=0,
)  # fmt: skip


def trained(work: Path, name: str) -> torch.Tensor:
    """The weights that a training under `name` ends with; its loss draws noise."""
    (work / name).mkdir()
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)

    def loss(model: torch.nn.Module, x: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return model(x + torch.randn(2, 3)).square().sum(), {}

    fit(
        model, OPTIM, lambda step: torch.ones(2, 3), loss,
        lambda step, model: {}, Curves(), work=work / name, checkpoint_secs=1e9, device=torch.device("cpu"), name=name,
        batch_keys=str,
    )  # fmt: skip
    return model.weight


def test_trainings_of_equal_values_under_two_names_are_the_same(tmp_path):
    assert torch.equal(trained(tmp_path, "one"), trained(tmp_path, "two"))


def test_a_warm_up_that_never_ends_is_refused():
    with pytest.raises(ValidationError, match="warmup_steps = 3: expected fewer than total_steps, 3"):
        Optim(**{**OPTIM.model_dump(), "warmup_steps": 3})


def test_batches_are_made_on_one_core_while_the_training_keeps_its_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = prefetch(lambda step: torch.get_num_threads(), 3, 6)
        made = [(step, of_maker, torch.get_num_threads()) for step, of_maker in batches]
    finally:
        torch.set_num_threads(threads)
    assert made == [(3, 1, 2), (4, 1, 2), (5, 1, 2)]


def test_code_vectors_are_not_decayed_and_other_matrices_are():
    from stages.codebook.quantizers import Vq

    model = torch.nn.ModuleDict({"vq": Vq(8, 4, 0.25), "linear": torch.nn.Linear(4, 4)})
    decay = {id(p): group["weight_decay"] for group in adamw(model, OPTIM).param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "vq.vectors": 0.0, "linear.weight": 0.1, "linear.bias": 0.0}  # fmt: skip
