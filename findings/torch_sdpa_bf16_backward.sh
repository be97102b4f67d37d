#!/usr/bin/env bash
# Expected: on a CPU, torch's fused attention is at least as fast in bfloat16 as in float32, forward and backward.
# Found:    its backward pass takes many times as long in bfloat16 as in float32, and as long products and a softmax
#           written out; the forward pass does not. 16 x 4 heads of 64 tokens and 32 channels, one thread, torch 2.15.0,
#           Intel cores with AVX-512 and AMX: 35 ms against 1.8 and 2.6.
# Workaround: stages/core/transformer.py writes the products out in trainings on a CPU (`attention`).
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention as fused

torch.set_num_threads(1)


def plain(q, k, v):
    return (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1) @ v


def backward_ms(attend, dtype):
    """The fastest of 15 backward passes."""
    torch.manual_seed(0)
    inputs = [torch.randn(16, 4, 64, 32, dtype=dtype, requires_grad=True) for _ in range(3)]
    taken = []
    for _ in range(15):
        out = attend(*inputs)
        started = time.perf_counter()
        torch.autograd.grad(out, inputs, torch.ones_like(out))
        taken.append(1e3 * (time.perf_counter() - started))
    return min(taken)


low, full, written_out = (
    backward_ms(fused, torch.bfloat16), backward_ms(fused, torch.float32), backward_ms(plain, torch.bfloat16)
)
print(f"torch {torch.__version__}, {torch.cpu.get_capabilities().get('cpu_name', 'CPU')}; expected to see: bfloat16 "
      f"above 4 x float32 and 4 x written out; got: {low:.1f} ms, {full:.1f} ms, {written_out:.1f} ms")
sys.exit(low < 4 * full or low < 4 * written_out)
PYTHON
