#!/usr/bin/env bash
# Expected: torch.distributed.destroy_process_group undoes what init_process_group did to the process.
# Found:    init_process_group replaces sys.excepthook by one that writes "[rank0]: " before every line of a traceback;
#           destroy_process_group leaves it, and each further group wraps it again. torch 2.15.0, one process, gloo.
# Workaround: stages/core/hardware.py restores the hook of a single process after it has formed its group.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys
from contextlib import redirect_stderr

import torch
import torch.distributed as dist

hook = sys.excepthook
for _ in range(3):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.destroy_process_group()
shown = io.StringIO()
with redirect_stderr(shown):
    sys.excepthook(ValueError, ValueError("of a program that no longer has a group"), None)
print(f"torch {torch.__version__}; expected to see: the hook of before; got: {shown.getvalue().strip()}")
sys.exit(sys.excepthook is hook or not shown.getvalue().startswith("[rank0]: [rank0]: [rank0]: "))
PYTHON
