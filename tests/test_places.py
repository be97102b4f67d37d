"""Options of the generators' transformer against oracles: rotary positions, local mixing, shared heads, SwiGLU.

Run: uv run pytest tests/test_places.py
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.params import UserError, load
from stages.core.transformer import Block, SwiGlu, attention, for_sampling, logits_at, rotate
from stages.generator import ar, masked
from stages.generator.params import KINDS, Model
from stages.generator.places import LocalMixing, rotary_tables
from stages.generator.transformer import TokenTransformer

OPTIONS = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "both": {"positions": "both"},
    "local": {"local": 5},
    "shared heads": {"kv_heads": 2, "positions": "rotary"},
    "all": {"positions": "both", "local": 3, "kv_heads": 1, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
}
SIZE = {"num_codes": 9, "num_classes": 3, "grid": 4, "dim": 32, "depth": 2, "heads": 4, "dropout": 0.0}


def network(causal: bool, codebooks: int = 1, **options) -> TokenTransformer:
    """A small random model with large weights, so that every part matters."""
    torch.manual_seed(0)
    model = TokenTransformer(**SIZE, num_patches=16 * codebooks, causal=causal, **options).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cached_logits_equal_the_uncached_forward(options, codebooks):
    model = network(True, codebooks, **options)
    labels, codes = torch.tensor([0, 2, 3]), torch.randint(9, (3, 16 * codebooks))
    whole, cache = model(labels, codes), model.new_cache(3)
    for position in range(16 * codebooks):
        newest = codes[:, position - 1] if position else labels
        torch.testing.assert_close(model.next_logits(newest, position, cache), whole[:, position], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_cache_filled_at_once_goes_on_as_one_filled_code_by_code(options):
    model = network(True, 2, **options)
    labels, codes = torch.tensor([0, 2, 3]), torch.randint(9, (3, 32))
    whole = model(labels, codes)
    for held in (0, 1, 15, 16, 17, 30):  # 16: all codes of the first of two codebooks
        cache = model.new_cache(3)
        model.fill_cache(labels, codes[:, :held], cache)
        logits = model.next_logits(codes[:, held], held + 1, cache)
        torch.testing.assert_close(logits, whole[:, held + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_logits_of_a_causal_model_depend_on_earlier_codes_alone(options, codebooks):
    model = network(True, codebooks, **options)
    labels, codes = torch.tensor([1]), torch.randint(9, (1, 16 * codebooks))
    whole = model(labels, codes)
    for position in range(16 * codebooks):
        other = codes.clone()
        other[:, position:] = (other[:, position:] + 1) % 9
        torch.testing.assert_close(model(labels, other)[:, : position + 1], whole[:, : position + 1])


@pytest.mark.parametrize("kind", [ar, masked], ids=["ar", "masked"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_sample_does_not_depend_on_its_batch(options, kind):
    model, settings = network(kind is ar, **options), KINDS["ar" if kind is ar else "masked"].plain
    whole = kind.sample(model, torch.tensor([0, 1, 2, 3]), settings.model_copy(update={"guidance": 1.5}), 0)
    alone = kind.sample(model, torch.tensor([2]), settings.model_copy(update={"guidance": 1.5}), 0, first=2)
    assert torch.equal(whole[2:3], alone)


def test_bf16_twin_for_sampling_is_near_for_every_option():
    for options in OPTIONS.values():
        model = network(False, **options)
        labels, codes = torch.tensor([0, 3]), torch.randint(9, (2, 16))
        with torch.autocast("cpu", torch.bfloat16):
            near = for_sampling(model, 32)(labels, codes)
        difference = (near - model(labels, codes)).std() / model(labels, codes).std()
        assert 0 < difference < 0.05, options


def brute_mixing(module: LocalMixing, x_BTD: Tensor) -> Tensor:
    """Place by place and tap by tap."""
    grid, reach, result = module.grid, module.reach, x_BTD.clone()
    offsets = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    if module.causal:
        offsets = [offset for offset in offsets if offset < (0, 0)]
    for place in range(x_BTD.shape[1] - (not module.causal)):
        plane, (row, col) = place // grid**2, divmod(place % grid**2, grid)
        for tap, (down, right) in enumerate(offsets):
            if 0 <= row + down < grid and 0 <= col + right < grid:
                held = x_BTD[:, 1 + plane * grid**2 + (row + down) * grid + col + right]
                result[:, place + (not module.causal)] += held * module.weight[:, tap]
    return result


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", [3, 5])
def test_local_mixing_equals_a_sum_over_places_and_taps(side, causal):
    module = LocalMixing(4, side, 3, 18, causal).requires_grad_(False)
    x_BTD = torch.randn(2, 18 if causal else 19, 4)
    assert torch.equal(module(x_BTD), x_BTD), "starts as the identity"
    module.weight.normal_()
    torch.testing.assert_close(module(x_BTD), brute_mixing(module, x_BTD))


def test_rotary_scores_depend_on_the_offset_of_row_and_column_alone():
    cos_q, sin_q = rotary_tables(4, 16, 8, causal=False)[0]
    q, k = torch.randn(2, 8)
    turned_q, turned_k = rotate(q.expand(17, 8), cos_q, sin_q), rotate(k.expand(17, 8), cos_q, sin_q)
    scores = (turned_q @ turned_k.T)[1:, 1:].unflatten(0, (4, 4)).unflatten(2, (4, 4))  # row, column of q and k
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[2, 1, 3, 3])
    torch.testing.assert_close(scores[3, 2, 1, 0], scores[2, 3, 0, 1])
    assert (scores[0, 0, 1, 2] - scores[0, 0, 2, 1]).abs() > 1e-3


def test_a_causal_query_has_the_place_that_it_predicts_and_a_key_the_one_that_it_holds():
    queries, keys = rotary_tables(4, 16, 8, causal=True)
    torch.testing.assert_close(queries[:, :-1], keys[:, 1:])
    assert torch.equal(keys[0, 0], torch.ones(8)) and torch.equal(keys[1, 0], torch.zeros(8))


def test_shared_heads_equal_a_block_whose_keys_and_values_are_repeated():
    torch.manual_seed(0)
    shared, whole = Block(16, 4, 0.0, True, kv_heads=2).eval(), Block(16, 4, 0.0, True).eval()
    state = shared.state_dict()
    for name in ("qkv.weight", "qkv.bias"):
        q, k, v = state[name].split([16, 8, 8])
        state[name] = torch.cat(
            [q, *(one.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for one in (k, v))]
        )
    whole.load_state_dict(state)
    x_BTD = torch.randn(2, 5, 16)
    torch.testing.assert_close(shared(x_BTD, None, 0), whole(x_BTD, None, 0))


def test_swiglu_is_silu_of_one_half_times_the_other_with_as_many_weights_as_gelu():
    x = torch.randn(3, 10)
    torch.testing.assert_close(SwiGlu()(x), x[:, :5] * x[:, :5].sigmoid() * x[:, 5:])
    count = {
        mlp: sum(p.numel() for p in Block(48, 4, 0.0, True, mlp=mlp).mlp.parameters()) for mlp in ("gelu", "swiglu")
    }
    assert count["swiglu"] == pytest.approx(count["gelu"], rel=0.02)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kv_heads", 3, "a divisor of heads = 4"),
        ("local", 4, "an odd side of at least 3"),
        ("positions", "rotary", "a multiple of 4 channels per head"),
        ("norm", "batch", "layernorm"),
    ],
)
def test_options_that_cannot_work_are_refused(key, value, expected, tmp_path):
    model = {"dim": 24, "depth": 1, "heads": 4, "dropout": 0, "label_smoothing": 0, "class_dropout": 0}
    model |= {"code_noise": {"share": 0, "nearest": 1}}
    model |= {"positions": "learned", "local": 0, "kv_heads": 0, "norm": "layernorm", "mlp": "gelu", "qk_norm": False}
    lines = "".join(f"    {name}: {given}\n" for name, given in (model | {key: value}).items())
    (tmp_path / "params.yaml").write_text("generator:\n  model:\n" + lines)
    with pytest.raises(UserError, match=expected):
        load("generator.model", Model, tmp_path / "params.yaml")


# --- products of training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("rule", ["all", "causal", "positions", "per sample"])
def test_attention_in_training_and_its_gradients_are_those_of_torch(shared, rule):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 6, 8, generator=generator) for heads in (4, 4 // shared, 4 // shared))
    sees = {"positions": torch.rand(6, 6, generator=generator) < 0.6,
            "per sample": torch.rand(3, 1, 6, 6, generator=generator) < 0.6}.get(rule)  # fmt: skip
    sees = sees | torch.eye(6, dtype=torch.bool) if sees is not None else None
    inputs, upstream = [each.requires_grad_() for each in (q, k, v)], torch.randn(3, 4, 6, 8, generator=generator)
    found = attention(q, k, v, sees, rule == "causal")
    wanted = F.scaled_dot_product_attention(q, k, v, sees, is_causal=rule == "causal", enable_gqa=True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad((one * upstream).sum(), inputs) for one in (found, wanted))
    for own, of_torch in zip(*gradients, strict=True):
        torch.testing.assert_close(own, of_torch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_logits_at_some_positions_are_those_of_the_head_on_a_multiple_of_64_rows(count):
    torch.manual_seed(0)
    hidden, at, seen = torch.randn(4, 32, 8), torch.zeros(128, dtype=torch.bool), []
    at[torch.randperm(128)[:count]] = True
    head = nn.Linear(8, 5)
    head.register_forward_pre_hook(lambda _, rows: seen.append(len(rows[0])))
    found, at = logits_at(head, hidden, at.view(4, 32)), at.view(4, 32)
    assert seen == [-(-count // 64) * 64] and len(found) == count
    torch.testing.assert_close(found, head(hidden)[at])
