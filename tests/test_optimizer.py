"""Optimizers equal torch's to the bit, and no training imports torch._dynamo for them.

Run: uv run pytest tests/test_optimizer.py
"""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
import toy as toys

from stages.core import optimizer


def weights_after(make, steps: int = 4) -> list[torch.Tensor]:
    """Of two parameter groups, with the state saved and read half way."""
    torch.manual_seed(0)
    weights = [torch.randn(5, 3, requires_grad=True), torch.randn(3, requires_grad=True)]
    groups = [{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:], "weight_decay": 0.0}]
    own = make(groups, lr=0.1, betas=(0.8, 0.9), fused=True)
    for step in range(steps):
        if step == steps // 2:
            state, own = own.state_dict(), make(groups, lr=0.1, betas=(0.8, 0.9), fused=True)
            own.load_state_dict(state)
        ((weights[0] @ weights[1] - 1) ** 2).sum().backward()
        own.step()
        own.zero_grad()
    return weights


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_updates_and_state_are_those_of_torch(name):
    found, wanted = (weights_after(getattr(module, name)) for module in (optimizer, torch.optim))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_trainings_do_not_import_what_compiles(toy, tmp_path):
    root = shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, {"decoder": {"onestep": {"gan": {"weight": 0.5, "start_share": 0.0}}}})
    for name in ("decoder", "generator@kmeans-ar"):  # the two loops of training
        module, *words = shlex.split(toys.COMMANDS[name].removeprefix("python -m "))
        script = f"import sys; sys.argv = {['x', *words]}; from {module} import main; main()"
        script += "; print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])"
        environment = {**os.environ, "PYTHONPATH": str(toys.ROOT)}
        done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]", name
