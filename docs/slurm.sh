#!/bin/bash
# The whole graph, or some stages, on all nodes of a Slurm job:   sbatch docs/slurm.sh [STAGE…]
# Set nodes, GPUs and time below. The repository must lie on a file system that all nodes share, and `uv sync` must have
# run. DVC runs on the first node. A stage that can use several processes starts one per GPU on every node. A job that
# was killed continues from its newest checkpoints when it is submitted again.
#SBATCH --job-name=semtok
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # two jobs on one node must not meet
export LAUNCHER="srun torchrun --nnodes $SLURM_JOB_NUM_NODES --nproc-per-node ${SLURM_GPUS_ON_NODE:-1} \
--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $first:$port"
uv run dvc repro "$@"
