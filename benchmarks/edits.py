"""CPU seconds until `semtok set` refuses an edit of params.yaml, for typos and for values that cannot be.

Run:    uv run python benchmarks/edits.py        (after `uv run dvc repro features`; a minute)
Expect: a line per edit with its seconds of user and system time, of all its processes, and the answer; the most at the
        end. An edit that is accepted, or whose answer does not name the key, is an error. params.yaml stays as it is.
"""

import argparse
import resource
import subprocess

EDITS = {  # edit -> what the answer says beside the key
    # Typos.
    "codebook.kmeans.num_code=512": "no such key; they have codebook.kmeans.num_codes",
    "codebok.kmeans.num_codes=512": "no such key; they have codebook.kmeans.num_codes",
    "tokenizer=[kmeans]": "no such key; they have tokenizers",
    "decoder.onestep.optim.total_step=10": "no such key; they have",
    "decoder.onestep.optim.warmup_steps=10": "no such key; they have",
    "decoder.onestep.gan.start_step=10": "no such key; they have",
    "generator.ar.eval_every=10": "no such key; they have",
    "machine.devices=cpu": "no such key; they have machine.device",
    "samples.ar.topk=5": "no such key; they have samples.ar.top_k",
    "data.image_px=64": "no such key; they have",
    "tokenizers=[kmean]": "no kmean; codebook has kmeans",
    "decoders=[onstep]": "no onstep; decoder has onestep",
    "generators=[ar, mask]": "no mask; generator has model, ar",
    "codebook.kmeans.kind=kmean": "expected one of kmeans, cluster",
    "data.source=digit": "input should be 'digits'",
    "machine.device=gpu": "string should match",
    "codebook.kmeans.init=kmean++": "input should be 'random'",
    "codebook.kmeans.engine=fais": "input should be 'faiss'",
    "generator.masked.mask_ratio=cosin": "input should be 'cosine'",
    "encoder.name=digit": "similar: ",
    "encoder.name=vit_base_patch14_reg4_dinov": "similar: vit_base_patch14_reg4_dinov2",
    "encoder.precision=fp8": "input should be 'fp32'",
    "decoder.onestep.gan.weighting=adaptve": "input should be 'adaptive'",
    "machine.tracker=wandbb": "input should be 'none'",
    # Impossible values.
    "codebook.kmeans.num_codes=0": "input should be greater than 0",
    "codebook.kmeans.num_codes=2.5": "input should be a valid integer",
    "codebook.kmeans.num_codes=many": "input should be a valid integer",
    "codebook.kmeans.num_codes=99999999999999999999": "the number is too large",
    "codebook.kmeans.whiten=2.0": "input should be less than or equal to 1",
    "decoder.onestep.optim.warmup_share=1.0": "input should be less than 1",
    "decoder.onestep.optim.eval_share=0.0": "input should be greater than 0",
    "decoder.onestep.gan.start_share=1.5": "input should be less than 1",
    "decoder.onestep.optim.lr_peak=-1": "input should be greater than 0",
    "decoder.onestep.optim.lr_peak=.nan": "input should be a finite number",
    "decoder.onestep.optim.batch_size=0": "input should be greater than 0",
    "decoder.onestep.widths=[]": "list should have at least 1 item",
    "decoder.onestep.widths=[100, 50]": "expected positive multiples of 8",
    "decoder.onestep.perceptual_blocks=[0, 4]": "expected block numbers from 0 to 3",
    "generator.model.heads=5": "expected a divisor of dim",
    "samples.ar.temperature=0": "input should be greater than 0",
    "samples.ar.top_p=1.5": "input should be less than or equal to 1",
    "samples.draws.seeds=[0, 0]": "expected different numbers",
    "samples.draws.per_class=0": "input should be greater than 0",
    "tokens.views=0": "input should be greater than 0",
    "ablation.dims=[8, 8]": "expected different numbers",
    "code_analysis.tsne.perplexity=1200.0": "expected less than features = 1200",
    "tokenizers=[]": "expected a list of at least one name",
    "tokenizers=['a b']": "expected a name of 1 to 64 letters",
    "data.folder=/absent/folder": "expected a folder of images",
    "data.source=folder": "expected a folder of images",
    "machine.tracker=wandb": "its package is not installed",
    # Values that only this machine, the encoder or the prepared data can refuse.
    "machine.device=cuda:99": "usable GPUs; use auto or cpu",
    "encoder.img_px=30": "expected a multiple of the patch size, 4 px",
    "encoder.img_px=48": "do not become data.img_px = 32 by doubling",
    "data.img_px=48": "do not become data.img_px = 48 by doubling",
    "features.block=4": "the encoder has 4 blocks: expected -4 … 3",
    "probe.block=-5": "the encoder has 4 blocks: expected -4 … 3",
    "codebook.kmeans.blocks=[0, 7]": "the encoder has 4 blocks: expected -4 … 3",
    "codebook.kmeans.num_codes=100000": "expected at most the 96,000 vectors to cluster",
    "codebook.kmeans.max_vectors=200": "expected at most the 200 vectors to cluster (codebook.kmeans.max_vectors)",
    "codebook.kmeans.pca_dim=129": "expected at most the 128 values of a vector",
    "ablation.dims=[8, 200]": "expected at most the 128 dimensions of a feature",
    "ablation.num_codes=[40000]": "expected at most the 32,768 vectors to cluster",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    seconds = [refused(edit, said) for edit, said in EDITS.items()]
    print(f"{len(seconds)} edits: {min(seconds):.2f} to {max(seconds):.2f} s")


def refused(edit: str, said: str) -> float:
    """CPU seconds of a refusal, printed with its answer; an edit that is accepted stops the benchmark."""
    before = children_seconds()
    done = subprocess.run(["semtok", "set", edit], capture_output=True, text=True)
    taken, answer = children_seconds() - before, done.stderr.strip().splitlines()
    if done.returncode != 2 or said not in done.stderr:
        raise SystemExit(f"{edit}: expected a refusal that says {said!r}, got status {done.returncode}: {answer}")
    print(f"{taken:.2f} s  {edit}  {' '.join(answer[-1].split())}")
    return taken


def children_seconds() -> float:
    """User and system time of all ended child processes and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
