"""Training of a generator: batches, loss, evaluation and the artifact that results."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import artifact, distributed
from stages.core.code import import_kind
from stages.core.distributed import epoch_batch, seed_of
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.metrics import count_train
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.scratch import scratch
from stages.core.train import Batch, fit
from stages.generator.code_noise import NoisyCodes, load_nearest
from stages.generator.conditions import Conditions, open_conditions
from stages.generator.likelihood import given_fn, likelihood_facts, nats_per_image
from stages.generator.params import KINDS, Model, Params
from stages.generator.transformer import build_network
from stages.text.reader import ENCODER
from stages.tokens.reader import Tokens, load_tokens, token_facts

EVAL_IMAGES = 256  # per split, evenly spaced


def train(
    tokens: Path, codebook: Path, out: Path, report: Path, params: Params, machine: Machine, text: Path | None = None
) -> None:
    """Write the generator artifact `out`; curves and last scores go to the folder `report`. `text`: of its captions."""
    facts, optim, device = token_facts(tokens), params.training, pick_device(machine.device)
    data = {split: load_tokens(tokens, split) for split in ("train", "val")}
    per_class = count_train(tokens, data["train"].labels, facts["classes"])
    conditions = open_conditions(f"generator.{params.name}", optim, data, tokens, text)
    kind = import_kind(KINDS[optim.kind].module)
    shape = network_shape(facts, params.model, kind.CAUSAL) | conditions.shape
    nearest = load_nearest(codebook, params.model.code_noise).to(device) if params.model.code_noise.share else None
    torch.manual_seed(optim.seed)
    network = build_network(kind, shape).to(device)
    estimate_cost(out, network, data, params, machine)
    curves, inputs = Curves(), [one for one in (tokens, conditions.folder) if one]
    with process_group(), scratch(out, params, inputs, meet=barrier) as work:
        batch_at, batch_keys = batches(data["train"], conditions, optim, params.model.class_dropout)
        fit(
            network, optim, batch_at, loss_fn(kind, params, device, nearest),
            evaluator(data, conditions, kind, device), curves, work=work, machine=machine, device=device,
            name=f"generator {out.name}", batch_keys=batch_keys,
        )  # fmt: skip
        if distributed.rank() == 0:
            curves.write(report, images=artifact.images_digest(tokens))
            likelihood = likelihood_facts(network, data, conditions, kind, device)
            config = config_of(params, tokens, conditions, per_class, shape, likelihood)
            publish(out, network, config, conditions.folder)
        barrier()


def config_of(
    params: Params, tokens: Path, conditions: Conditions, per_class: list[int], shape: dict[str, Any],
    likelihood: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The config.json of a generator."""
    facts, text = token_facts(tokens), conditions.folder
    captions = {"text": artifact.digest(text)} if text else {}
    return {
        "kind": params.training.kind, "name": params.name, "tokenizer": facts["tokenizer"], "classes": facts["classes"],
        "train_per_class": per_class, "class_dropout": params.model.class_dropout, "shape": shape,
        "sampling": KINDS[params.training.kind].plain.model_dump(), "likelihood": likelihood,
        "inputs": {"tokens": artifact.digest(tokens), **facts["inputs"], **captions}, **conditions.facts,
    }  # fmt: skip


def publish(out: Path, network: nn.Module, config: dict[str, Any], text: Path | None = None) -> None:
    """Write the artifact, with the text encoder of its captions, and print the likelihood of the val codes."""
    with artifact.new_artifact(out, "generator", config) as folder:
        if text:
            artifact.copy(text / ENCODER, folder / ENCODER)
        save_tensors(folder / "model.safetensors", network.state_dict())
    print(f"generator {out.name}: " + ", ".join(f"{key} {value}" for key, value in config["likelihood"].items()))


def estimate_cost(out: Path, network: Any, data: dict[str, Tokens], params: Params, machine: Machine) -> None:
    """Print the cost; weights, optimizer state and averages are five copies."""
    size, images = sum(p.numel() for p in network.parameters()), params.training.images_at_once(machine)
    memory = params.peak_bytes(size, network.num_patches, network.num_codes, images)
    counts = {"images": len(data["train"].labels), "parameters": size}
    print_cost_estimate("generator", out, counts, disk_bytes=size * 20, memory_bytes=memory)


def network_shape(facts: dict[str, Any], model: Model, causal: bool) -> dict[str, Any]:
    """The arguments of `build_network`, from the tokens, the params and the kind; conditions add theirs."""
    sizes = {key: facts[key] for key in ("num_codes", "num_patches", "grid")}
    return {**sizes, "num_classes": len(facts["classes"]), **model.network(), "causal": causal}


def batches(
    data: Tokens, conditions: Conditions, optim: Optim, dropout: float
) -> tuple[Callable[[int], Batch], Callable[[int], list[int]]]:
    """step -> (given [B, …], codes [B, N]) of seeded images, views and dropouts; step -> image numbers.

    The whole batch is drawn in every process; B is the share of this one.
    """

    def images_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(data.labels), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> Batch:
        rng, index = np.random.default_rng(seed_of("generator", optim.seed, step)), images_at(step)
        views = rng.integers(len(data.codes), size=len(index))
        numbers = conditions.drawn(index, dropout, rng)
        codes = data.codes[distributed.share_of(views), distributed.share_of(index)].astype(np.int64)
        return conditions.given("train", distributed.share_of(numbers)), torch.from_numpy(codes)

    return batch_at, lambda step: images_at(step).tolist()


def loss_fn(kind: ModuleType, params: Params, device: torch.device, nearest_KC: Tensor | None) -> Any:
    """The loss of the kind under autocast; its masks and the noise on codes are functions of the step."""
    optim, share = params.training, params.model.code_noise.share
    settings = KINDS[optim.kind].loss_settings(optim)

    def loss(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = torch.Generator().manual_seed(seed_of("masks", optim.seed, step))
        noise = torch.Generator().manual_seed(seed_of("code noise", optim.seed, step))
        reader = model if nearest_KC is None else NoisyCodes(model, nearest_KC, share, noise)
        with compute(device, optim.precision):
            value = kind.loss(reader, *batch, rng, params.model.label_smoothing, **settings)
        return value, {}

    return loss


def evaluator(data: dict[str, Tokens], conditions: Conditions, kind: ModuleType, device: torch.device) -> Any:
    """step, averaged model -> nats per code of train and val images, not augmented, class or caption given."""

    def nats_of(model: Any, split: str) -> float:
        given_of = given_fn(conditions, split)
        return nats_per_image(model, data[split], given_of, kind, device, EVAL_IMAGES, 1).mean() / model.num_patches

    def evaluate(step: int, model: Any) -> dict[str, float]:
        return {f"{split}/nats_per_code": nats_of(model, split) for split in ("train", "val")}

    return evaluate
