"""Sampling on a CPU: ours against x-transformers and transformers' GPT-2 at equal size, and each precision of ours.

Run:    uv pip install x-transformers transformers && OMP_NUM_THREADS=1 uv run --no-sync python benchmarks/sampling.py
        OMP_NUM_THREADS=1 uv run python benchmarks/sampling.py --generators data/*generator/kmeans-*
        (the latter after: uv run dvc repro generator)
Expect: CPU time of each contender as a multiple of the first one's, medians of --rounds alternated rounds. First, all
        draw --batch x --tokens codes plainly from untrained networks of 8 layers, 384 channels, 6 heads, 1,032 codes;
        15 minutes with the defaults. "unpacked" is our network with torch's own products. With --generators, trained
        ones draw --batch samples as params.yaml says, and the share of codes that equal those in fp32 is printed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from stages.generator import ar
from stages.generator.alternating_params import load_sampling
from stages.generator.open_network import open_network
from stages.generator.params import PLAIN, Sampling
from stages.generator.transformer import TokenTransformer

LAYERS, DIM, HEADS, CODES = 8, 384, 6, 1032
Work = Callable[[], Any]


def ours(batch: int, tokens: int) -> dict[str, Work]:
    """Our sampler in both precisions, and with torch's own products."""
    torch.manual_seed(0)
    size = {"dim": DIM, "depth": LAYERS, "heads": HEADS, "dropout": 0.0}
    network = TokenTransformer(
        num_codes=CODES, num_classes=10, num_patches=tokens, grid=math.isqrt(tokens), causal=True, **size
    ).eval()
    labels = torch.arange(batch) % 10

    def sampler(packed: bool, **changes: Any) -> Work:
        return lambda: draw(ar, network, labels, Sampling(**{**PLAIN, **changes}), packed)

    return {"ours": sampler(True), "ours, bf16": sampler(True, precision="bf16"), "ours, unpacked": sampler(False)}


def draw(kind: Any, network: Any, labels: Tensor, sampling: Sampling, packed: bool = True) -> Tensor:
    """Codes of a seed; not `packed`: the linear maps stay as they are."""
    with nullcontext() if packed else patch.object(kind, "for_sampling", lambda network, rows: network):
        return kind.sample(network, labels, sampling, 0)


def x_transformers(batch: int, tokens: int, dtype: torch.dtype) -> Work:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    layers = Decoder(dim=DIM, depth=LAYERS, heads=HEADS, attn_dim_head=DIM // HEADS, attn_flash=True)
    network = TransformerWrapper(num_tokens=CODES, max_seq_len=tokens + 1, attn_layers=layers).to(dtype)
    wrapper, start = AutoregressiveWrapper(network).eval(), torch.zeros(batch, 1, dtype=torch.long)
    plain = {"temperature": 1.0, "filter_logits_fn": lambda logits, **_: logits}
    return lambda: wrapper.generate(start, tokens, cache_kv=True, **plain)


def gpt2(batch: int, tokens: int, dtype: torch.dtype) -> Work:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"vocab_size": CODES, "n_positions": tokens + 1, "n_embd": DIM, "n_layer": LAYERS, "n_head": HEADS}
    network = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=None, eos_token_id=None)).to(dtype).eval()
    start = torch.zeros(batch, 1, dtype=torch.long)
    plain = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    mask = torch.ones_like(start)
    return torch.inference_mode()(lambda: network.generate(start, attention_mask=mask, use_cache=True, **plain))


PEERS = {"x-transformers": x_transformers, "transformers' GPT-2": gpt2}


def alternated(work: dict[str, Work], rounds: int) -> None:
    """Print the CPU time of each as a multiple of the first one's."""
    for run in work.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            started = time.process_time()
            run()
            taken[name].append(time.process_time() - started)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    base = next(iter(seconds.values()))
    for name, value in seconds.items():
        spread = f"{min(taken[name]):.3f} to {max(taken[name]):.3f}"
        print(f"  {name:28} {value / base:6.3f}   {value:7.3f} s of CPU ({spread})", flush=True)


def against_peers(batch: int, tokens: int, rounds: int) -> None:
    """All contenders at one size."""
    work = ours(batch, tokens)
    for name, make in PEERS.items():
        work |= {name: make(batch, tokens, torch.float32), f"{name}, bf16": make(batch, tokens, torch.bfloat16)}
    equal = (work["ours"]() == work["ours, unpacked"]()).double().mean().item()
    print(f"batch {batch}, {tokens} codes; packed and unpacked agree in {equal:.6f} of the codes")
    alternated(work, rounds)


def of_generator(folder: Path, batch: int, rounds: int) -> None:
    """A trained generator as params.yaml says, in both precisions."""
    network, config, kind = open_network(folder, "cpu")
    sampling = load_sampling(config["name"], config["kind"])
    labels = torch.arange(batch) % max(1, network.num_classes)
    settings = {name: sampling.model_copy(update={"precision": name}) for name in ("fp32", "bf16")}
    codes = {name: kind.sample(network, labels, setting, 0) for name, setting in settings.items()}
    print(f"{folder}, batch {batch}; {(codes['fp32'] == codes['bf16']).double().mean().item():.3f} of the codes equal")
    work = {name: lambda setting=setting: draw(kind, network, labels, setting) for name, setting in settings.items()}
    alternated({**work, "fp32, unpacked": lambda: draw(kind, network, labels, settings["fp32"], packed=False)}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generators", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; medians of {args.rounds} alternated rounds")
    if not args.generators:
        against_peers(args.batch, args.tokens, args.rounds)
    for folder in args.generators:
        of_generator(folder, args.batch, args.rounds)


if __name__ == "__main__":
    main()
