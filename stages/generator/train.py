"""Train a generator on codes: `ar` (next code) or `masked` (hidden codes), class-conditional and unconditional in one.

Run:    dvc repro generator                 (one of them: dvc repro generator@kmeans-ar; on four GPUs: NPROC=4 dvc …)
Expect: digits: 1 to 2 minutes each on two cores; train and val likelihood in reports/generator/<name>/.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.core import artefact, distributed, runtime
from stages.core.choice import evenly
from stages.core.codes import count_codes
from stages.core.loop import Optim, check_shares, epoch_batch, fit
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.core.trunk import Trunk
from stages.tokens.reader import Tokens, load_tokens, token_facts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

EVAL_IMAGES = 256  # of each split, evenly spread, so that watching costs little
LIKELIHOOD_BATCH = 64  # images at once; masks are drawn for so many, so no setting may change it
BOUND_MASKS = 5_000  # behind masked's bound, several of an image where there are few


class Model(Trunk):
    class_dropout: float = Field(ge=0, le=1)


class Params(Section):
    """What one generator is trained with: the shared architecture and its own schedule."""

    name: Literal["ar", "masked"]
    model: Model
    optim: Optim


def train(tokens: Path, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the generator artefact `out`; curves and last scores go to the folder `report`."""
    import torch

    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch
    from stages.generator.model import TokenTransformer

    data, facts = {split: load_tokens(tokens, split) for split in ("train", "val")}, token_facts(tokens)
    shape, optim, curves = network_shape(facts, params.model), params.optim, Curves()
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    network = TokenTransformer(**shape, causal=params.name == "ar").to(device)
    announce(out, network, data, params)
    config = {"name": params.name, "shape": shape, "tokenizer": tokens.name, "classes": facts["classes"]}
    with distributed.process_group(), scratch(f"generator-{out.name}", params, [tokens]) as work:
        batch_at, batch_keys = batches(data["train"], params, device)
        fit(
            network, optim, batch_at, loss_fn(params, device), watcher(data, params, device), curves,
            work=work, checkpoint_secs=machine.checkpoint_secs, device=device, name=f"generator {out.name}",
            batch_keys=batch_keys,
        )  # fmt: skip
        if distributed.rank() == 0:
            curves.write(report)
            likelihood = likelihood_facts(network, data, params.name, device)
            publish(out, network, {**config, "likelihood": likelihood, "inputs": {"tokens": artefact.digest(tokens)}})
        distributed.barrier()


def publish(out: Path, network: torch.nn.Module, config: dict[str, Any]) -> None:
    """Make the artefact of the trained network and say how likely it finds the val codes."""
    with artefact.new_artefact(out, "generator", config) as folder:
        artefact.save_tensors(folder / "model.safetensors", network.state_dict())
    print(f"generator {out.name}: " + ", ".join(f"{key} {value}" for key, value in config["likelihood"].items()))


def announce(out: Path, network: Any, data: dict[str, Tokens], params: Params) -> None:
    """The plan: weights, optimizer and averages are five copies; activations about 25 values a position and layer.

    Logits and what the loss makes of them are three values a position and code.
    """
    size, positions = sum(p.numel() for p in network.parameters()), params.optim.batch_size * network.num_patches
    activations = positions * params.model.dim * params.model.depth * 100
    logits = max(positions, LIKELIHOOD_BATCH * network.num_patches) * network.num_codes * 12
    print_plan(
        "generator", out, {"images": len(data["train"].labels), "parameters": size},
        disk_bytes=size * 20, memory_bytes=600 * 2**20 + size * 24 + activations + logits,
    )  # fmt: skip


def network_shape(facts: dict[str, Any], model: Model) -> dict[str, Any]:
    """The network's sizes, from the tokens and the params."""
    sizes = {"num_codes": facts["num_codes"], "num_classes": len(facts["classes"]), "num_patches": facts["num_patches"]}
    return {**sizes, "dim": model.dim, "depth": model.depth, "heads": model.heads, "dropout": model.dropout}


def batches(data: Tokens, params: Params, device: torch.device) -> tuple[Any, Any]:
    """step -> (labels [B], codes [B, N]) of seeded images, views and class drop-outs; step -> image numbers.

    All is drawn for the whole batch; B is this process's share.
    """
    import numpy as np
    import torch

    from stages.core.rng import seed_of

    optim = params.optim

    def images_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(data.labels), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rng, index = np.random.default_rng(seed_of("generator", optim.seed, step)), images_at(step)
        views = rng.integers(len(data.codes), size=len(index))
        dropped = (rng.random(len(index)) < params.model.class_dropout) | (data.labels[index] < 0)
        labels = np.where(dropped, data.num_classes, data.labels[index])
        codes = data.codes[distributed.share_of(views), distributed.share_of(index)].astype(np.int64)
        return torch.from_numpy(distributed.share_of(labels)).to(device), torch.from_numpy(codes).to(device)

    return batch_at, lambda step: images_at(step).tolist()


def loss_fn(params: Params, device: torch.device) -> Any:
    """The loss of the asked kind under autocast; its masks are a function of the step."""
    import torch

    from stages.core.device import compute
    from stages.core.rng import seed_of
    from stages.generator import kinds

    kind = kinds.KINDS[params.name]

    def loss(model: Any, batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = torch.Generator().manual_seed(seed_of("masks", params.optim.seed, step))
        with compute(device, params.optim.precision):
            value = kind.loss(model, *batch, rng, params.model.label_smoothing)
        return value, {}

    return loss


def watcher(data: dict[str, Tokens], params: Params, device: torch.device) -> Any:
    """step, averaged model -> nats a code on plain train and val images, class given: the honest pair of curves."""

    def evaluate(step: int, model: Any) -> dict[str, float]:
        return {
            f"{split}/nats_per_code": nats_an_image(model, data[split], params.name, device, EVAL_IMAGES, 1).mean()
            / model.num_patches
            for split in ("train", "val")
        }

    return evaluate


def nats_an_image(model: Any, data: Tokens, name: str, device: torch.device, limit: int, draws: int) -> np.ndarray:
    """float64 [M]: -ln p of at most `limit` plain images given their class; masks are seeded, means over `draws`."""
    import numpy as np
    import torch

    from stages.generator import kinds

    kind, rng = kinds.KINDS[name], torch.Generator().manual_seed(0)
    chosen = evenly(len(data.labels), limit)
    parts = np.array_split(chosen, math.ceil(len(chosen) / LIKELIHOOD_BATCH))
    found: list[Tensor] = []
    with torch.inference_mode():
        for part in parts * draws:
            labels = np.where(data.labels[part] < 0, data.num_classes, data.labels[part])
            given = torch.from_numpy(labels), torch.from_numpy(data.codes[0][part].astype(np.int64))
            found.append(kind.nats(model, *(tensor.to(device) for tensor in given), rng).double().cpu())
    return torch.cat(found).view(draws, -1).mean(0).numpy()


def likelihood_facts(model: Any, data: dict[str, Tokens], name: str, device: torch.device) -> dict[str, Any]:
    """Likelihood of all val images under the final weights: exact for ar, for masked a bound; _std is of the mean."""
    from stages.generator import kinds

    kind, val, codes = kinds.KINDS[name], data["val"], model.num_patches
    draws = 1 if kind.BOUND == "exact" else max(1, BOUND_MASKS // len(val.labels))
    nats = nats_an_image(model, val, name, device, len(val.labels), draws)
    mean, std = float(nats.mean()), float(nats.std() / len(nats) ** 0.5)
    perplexity = math.exp(mean / codes)
    return {
        "bound": kind.BOUND,
        "val_images": len(nats),
        "val_nats_per_code": round(mean / codes, 6),
        "val_perplexity": round(perplexity, 4),
        "val_perplexity_std": round(perplexity * std / codes, 4),
        "val_bits_per_image": round(mean / math.log(2), 3),
        "val_bits_per_image_std": round(std / math.log(2), 3),
        "unigram_perplexity": round(unigram_perplexity(data["train"], val), 4),
    }


def unigram_perplexity(train: Tokens, val: Tokens) -> float:
    """exp of the cross-entropy of val codes under train's code frequencies, one count added to each."""
    import numpy as np

    share = count_codes(train.codes[0], train.num_codes) + 1.0
    seen = count_codes(val.codes[0], val.num_codes)
    return float(np.exp(-(seen * np.log(share / share.sum())).sum() / seen.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=["ar", "masked"], required=True, help="which generator")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens artefact")
    parser.add_argument("--out", type=Path, required=True, help="generator artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    model, optim = load("generator.model", Model, args.params), load(f"generator.{args.name}", Optim, args.params)
    params = Params(name=args.name, model=model, optim=optim)
    check_shares(f"generator.{args.name}", optim)
    token_facts(args.tokens)  # raises if there are none, before anything heavy is imported
    train(args.tokens, args.out, args.report, params, load("machine", Machine, args.params))


if __name__ == "__main__":
    runtime.run(main, parallel=True)
