"""Train a tokenizer, decoder or generator again with other seeds, for the spread between trainings.

Run:    semtok seeds codebook.kmeans 1 2
Expect: sections codebook.kmeans_s1 and codebook.kmeans_s2 in params.yaml, equal to codebook.kmeans except for seeds,
        their names in the list `tokenizers`, and the stages that `semtok run` will run for them: no training that
        exists. The report takes trainings for one configuration where their sections differ by seeds alone.
"""

from typing import Any

from pipeline.edit import apply
from pipeline.errors import PipelineError
from pipeline.params_file import clean_copy

LISTS = {  # section of names -> the lists that name them
    "codebook": ("tokenizers",),
    "decoder": ("decoders",),
    "generator": ("generators", "alternating_generators"),
}
BESIDE = {"decoder": ("pixel_tokenizer",), "generator": ("samples", "captions")}  # sections that hold the same names


def main(section: str, seeds: list[int]) -> int:
    """Add a replicate per seed, or none."""
    return apply(lambda params: replicates(params, section, seeds))


def replicates(params: dict, section: str, seeds: list[int]) -> dict:
    """What to lay over the params: the sections of all replicates, and the list with their names."""
    owner, _, name = section.partition(".")
    chosen = next((key for key in LISTS.get(owner, ()) if name in (params.get(key) or [])), None)
    if chosen is None or not isinstance(params.get(owner, {}).get(name), dict):
        lists = ", ".join(f"{one}.NAME of {' or '.join(keys)}" for one, keys in LISTS.items())
        raise PipelineError(f"{section}: expected a section in use: {lists}")
    values: dict[str, Any] = {chosen: [*params[chosen]]}
    for seed in dict.fromkeys(seeds):
        add(values, params, owner, name, seed)
        if f"{name}_s{seed}" not in values[chosen]:
            values[chosen].append(f"{name}_s{seed}")
    return values


def add(values: dict[str, Any], params: dict, owner: str, name: str, seed: int) -> None:
    """The sections of one replicate; `PipelineError` if its name is taken by something else."""
    copy, made = f"{name}_s{seed}", with_seed(params[owner][name], seed)
    if made == params[owner][name]:
        raise PipelineError(f"{owner}.{name}: has seed {seed} already, or no seed: expected other seeds")
    found = {owner: made} | {one: params[one][name] for one in BESIDE.get(owner, ()) if name in (params.get(one) or {})}
    for one, value in found.items():
        if (params.get(one) or {}).get(copy, value) != value:
            raise PipelineError(f"{one}.{copy}: exists, and is not {one}.{name} with seed {seed}: rename it")
        values.setdefault(one, {})[copy] = clean_copy(value)


def with_seed(section: dict, seed: int) -> dict:
    """A copy of a section in which every value of the name `seed`, at any depth, is this one."""
    made = clean_copy(section)
    for key, value in made.items():
        if isinstance(value, dict):
            made[key] = with_seed(value, seed)
        elif key == "seed":
            made[key] = seed
    return made
