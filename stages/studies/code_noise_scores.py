"""FID of images decoded from codes that are perturbed among those near the continuous feature."""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.codebook.quantizers import Codebook, Fsq
from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import seed_of
from stages.core.hardware import pick_device
from stages.core.images import to_float
from stages.core.metrics import code_dtype
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit
from stages.decoder.decoder import Decoder, check_codes_of, load_decoder
from stages.evaluate.evaluator import Evaluator, decode, open_evaluator, print_summary
from stages.evaluate.frechet import fid
from stages.evaluate.params import Inputs
from stages.evaluate.score_reconstruction import tokenizer_facts
from stages.studies.params import CodeNoiseGrid

ENCODED = 256  # images at once, as Tokenizer.encode does: other numbers change the last digits of features
ROWS = 512  # features compared at once with all code vectors
BASE_BYTES = 15 * 10**8  # Python, its libraries, the networks, the reference and a batch


class Noise(NamedTuple):
    """How codes are perturbed: with probability `alpha`, among the `delta` nearest, by the draws of `seed`."""

    alpha: float
    delta: int
    seed: int


def measure(inputs: Inputs, codebook: Path, report: Path, params: CodeNoiseGrid, machine: Machine) -> None:
    """Write metrics.json to the folder `report`."""
    check_codes_of(inputs.decoder, codebook)
    artifact.check_made_from(codebook, f"codebook@{codebook.name}", images=inputs.images, encoder=inputs.encoder)
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(codebook, device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    evaluator = open_evaluator(inputs, machine, device)
    val, grid = ImageSplit(inputs.images, "val", machine.num_workers), grid_of(tokenizer, params)
    noises = [Noise(alpha, delta, seed) for alpha, delta in grid for seed in params.seeds]
    counts = {"decodings of all val images": 1 + len(noises)}
    codes_bytes = np.dtype(code_dtype(tokenizer.num_codes)).itemsize * len(val) * tokenizer.num_patches
    print_cost_estimate("code_noise_fid", report, counts, 10**5, BASE_BYTES + codes_bytes * (1 + len(noises)))
    codes, found = perturbed(val, tokenizer, noises, machine.infer_batch_size), {}
    with bar(f"code_noise_fid {report.name}", len(codes), 0, "decoding") as progress:
        for noise, own in codes.items():
            found[noise] = fids(own, decoder, evaluator, params.seed)
            progress.update()
    changed = {noise: float((own != codes[None]).mean()) for noise, own in codes.items()}
    results = {
        "images": artifact.images_digest(inputs.images),
        "tokenizer": tokenizer_facts(tokenizer),
        "decoder": artifact.read_config(inputs.decoder, "decoder")["name"],
        "rfid": named("rfid", found[None]),
        "pfid": mean_of(grid, found, params),
        "points": [point_of(*one, found, changed, tokenizer, params) for one in grid],
    }
    write_metrics(report, {**results, "protocol": protocol(val.labels, evaluator, params)})
    print_summary("code_noise_fid", results)


def grid_of(tokenizer: Tokenizer, params: CodeNoiseGrid) -> list[tuple[float, int]]:
    """Every alpha with every delta, which is a share of one codebook and at least 1."""
    own = tokenizer.num_codes // groups_of(tokenizer.codebook)
    deltas = [max(1, round(share * own)) for share in params.delta_shares]
    return [*product(params.alphas, dict.fromkeys(deltas))]


def groups_of(codebook: Codebook | Fsq) -> int:
    """Its number of codebooks."""
    return codebook.codebooks if isinstance(codebook, Codebook) else 1


@torch.inference_mode()
def perturbed(
    val: ImageSplit, tokenizer: Tokenizer, noises: list[Noise], batch_size: int
) -> dict[Noise | None, np.ndarray]:
    """The codes [M, N] of all val images under each noise, and as they are under None."""
    shape, dtype = (len(val), tokenizer.num_patches), code_dtype(tokenizer.num_codes)
    found: dict[Noise | None, np.ndarray] = {noise: np.empty(shape, dtype) for noise in (None, *noises)}
    most = max(noise.delta for noise in noises)
    for start in range(0, len(val), batch_size):
        numbers = range(start, min(start + batch_size, len(val)))
        images = np.array_split(val.read(numbers), range(ENCODED, len(numbers), ENCODED))
        features = [tokenizer.features(to_float(part, tokenizer.device)) for part in images]
        near = nearest_codes(tokenizer.codebook, torch.cat(features), most).cpu()
        drawn = {seed: uniforms(numbers, tokenizer.num_patches, seed) for seed in {noise.seed for noise in noises}}
        found[None][start : numbers.stop] = near[..., 0].numpy()
        for noise in noises:
            found[noise][start : numbers.stop] = replaced(near, noise, drawn[noise.seed]).numpy()
    return found


def nearest_codes(codebook: Codebook | Fsq, features: Tensor, count: int) -> Tensor:
    """int64 [B, N, count]: the codes nearest to features float [B, N, D]; the first is the one that is chosen."""
    chosen, groups = codebook.assign(features), groups_of(codebook)
    placed = codebook.in_code_space(features).unflatten(1, (groups, -1))
    parts = []
    for group, vectors in enumerate(codebook.vectors.unflatten(0, (groups, -1))):
        first = chosen.unflatten(1, (groups, -1))[:, group] - group * len(vectors)
        rows = zip(placed[:, group].flatten(0, 1).split(ROWS), first.flatten().split(ROWS), strict=True)
        near = torch.cat([nearest_rows(vectors, *row, count) for row in rows])
        parts.append(near.view(*first.shape, count) + group * len(vectors))
    return torch.cat(parts, 1)


def nearest_rows(vectors_KD: Tensor, placed_MD: Tensor, first_M: Tensor, count: int) -> Tensor:
    """int64 [M, count]: the nearest vectors of each row, `first` before all others."""
    distances = torch.addmm(vectors_KD.square().sum(1), placed_MD, vectors_KD.T, alpha=-2)
    distances.scatter_(1, first_M[:, None], -torch.inf)
    return distances.topk(count, largest=False).indices


def uniforms(numbers: range, num_patches: int, seed: int) -> Tensor:
    """float [B, 2, N] in [0, 1): the draws of the images with these numbers, the same for every point of the grid."""
    seeds = [seed_of("code_noise_fid", seed, number) for number in numbers]
    return torch.stack([torch.rand(2, num_patches, generator=torch.Generator().manual_seed(one)) for one in seeds])


def replaced(near_BNC: Tensor, noise: Noise, drawn_B2N: Tensor) -> Tensor:
    """int64 [B, N]: with probability alpha one of the first delta codes, else the first."""
    which = (drawn_B2N[:, 1] * noise.delta).long().clamp(max=noise.delta - 1)
    return near_BNC.gather(2, (which * (drawn_B2N[:, 0] < noise.alpha))[..., None])[..., 0]


def fids(codes: np.ndarray, decoder: Decoder, evaluator: Evaluator, seed: int) -> dict[str, float]:
    """{extractor: FID of the decoded codes to the val images}, decoded and compared as for rFID."""
    made = evaluator.extract_all(len(codes), lambda batch: decode(decoder, codes[batch.start : batch.stop], seed))
    return {name: fid(own, evaluator.reference.val.features[name]) for name, own in made.features.items()}


def named(metric: str, values: dict[str, float]) -> dict[str, float]:
    """{"metric[extractor]": value}."""
    return {f"{metric}[{name}]": value for name, value in values.items()}


def over_seeds(values: list[dict[str, float]]) -> dict[str, float]:
    """pfid[extractor], the mean of one value per seed, and _std, their deviation."""
    found = named("pfid", {name: float(np.mean([one[name] for one in values])) for name in values[0]})
    return found | {f"pfid[{name}]_std": float(np.std([one[name] for one in values], ddof=1)) for name in values[0]}


def point_of(
    alpha: float, delta: int, found: dict[Noise | None, dict[str, float]], changed: dict[Noise | None, float],
    tokenizer: Tokenizer, params: CodeNoiseGrid,
) -> dict[str, float]:  # fmt: skip
    """One point of the grid."""
    noises = [Noise(alpha, delta, seed) for seed in params.seeds]
    share = delta * groups_of(tokenizer.codebook) / tokenizer.num_codes
    facts = {"alpha": alpha, "delta": delta, "delta_share": share}
    facts["changed"] = float(np.mean([changed[noise] for noise in noises]))
    return facts | over_seeds([found[noise] for noise in noises])


def mean_of(
    grid: list[tuple[float, int]], found: dict[Noise | None, dict[str, float]], params: CodeNoiseGrid
) -> dict[str, float]:
    """The mean over the grid, of each seed first."""
    by_seed = []
    for seed in params.seeds:
        own = [found[Noise(*point, seed)] for point in grid]
        by_seed.append({name: float(np.mean([one[name] for one in own])) for name in own[0]})
    return over_seeds(by_seed)


def protocol(labels: np.ndarray, evaluator: Evaluator, params: CodeNoiseGrid) -> list[dict[str, Any]]:
    """Of rFID and of pFID; beta is the share of images that are perturbed."""
    same = {"seed": params.seed, "decoding_precision": params.decoding_precision}
    noise = {"alphas": params.alphas, "delta_shares": params.delta_shares, "beta": 1.0, "noise_seeds": params.seeds}
    return [
        evaluator.describe("rfid", "val", labels, **same),
        evaluator.describe("pfid", "val", labels, **same, **noise),
    ]
