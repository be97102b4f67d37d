"""The transformer block of all generators, and fast inference of its linear maps.

B = batch, T = positions, D = width, H = heads.
"""

import copy
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)
Cache = list[tuple[Tensor, ...]]  # a block's keys and values [B, H, T, D/H], filled from the left


class SwiGlu(nn.Module):
    """SiLU of the first half of the channels times the second (Shazeer 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value


class RmsNorm(nn.RMSNorm):
    """torch's, in fp32 whatever the input is: with other dtypes than its weights' it has no fast kernel and warns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and MLP: GPT-2's block, with the parts of later ones as options.

    kv_heads: heads of keys and values, each shared by heads / kv_heads of the queries (GQA); 0: as many as heads.
    qk_norm: RMSNorm of queries and keys per head.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, causal: bool, *, kv_heads: int = 0,
        norm: Literal["layernorm", "rmsnorm"] = "layernorm", mlp: Literal["gelu", "swiglu"] = "gelu",
        qk_norm: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.causal = heads, kv_heads or heads, dim // heads, causal
        of_width = nn.LayerNorm if norm == "layernorm" else RmsNorm
        self.norm_attention, self.norm_mlp = of_width(dim), of_width(dim)
        self.qkv, self.out = nn.Linear(dim, dim + 2 * self.kv_heads * self.head_dim), nn.Linear(dim, dim)
        hidden = 4 * dim if mlp == "gelu" else -(-8 * dim // 24) * 8  # 8/3 of the width: as many weights
        first = (nn.Linear(dim, hidden), nn.GELU()) if mlp == "gelu" else (nn.Linear(dim, 2 * hidden), SwiGlu())
        self.mlp = nn.Sequential(*first, nn.Linear(hidden, dim))
        self.norm_q, self.norm_k = (RmsNorm(self.head_dim) if qk_norm else nn.Identity() for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x_BTD: Tensor, cache: tuple[Tensor, ...] | None, start: int, turns: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """float [B, T, D] -> [B, T, D]. With a cache, x holds positions from `start` on; the cache holds earlier ones.

        If the cache of a causal block holds earlier positions, x must be a single one. `turns`, float [2, 2, T, D/H]
        or [2, 2, B, 1, T, D/H]: cos and signed sin of the rotary angles of queries and of keys.

        `sees`, bool [R, S] or [B, 1, R, S], replaces the causal rule: which of positions 0 … S - 1 each of the last R
        of x attends to. Nothing attends to positions from S on. Returns those last R positions alone.
        """
        heads = self.qkv(self.norm_attention(x_BTD)).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q, k = self.norm_q(q), self.norm_k(k)
        if turns is not None:
            q, k = rotate(q, *turns[0]), rotate(k, *turns[1])
        if sees is not None:
            rows, held = sees.shape[-2], sees.shape[-1] - start
            x_BTD, q, k, v = x_BTD[:, -rows:], q[:, :, -rows:], k[:, :, :held], v[:, :, :held]
        stop = start + k.shape[2]
        if cache is not None:
            cache[0][:, :, start:stop], cache[1][:, :, start:stop] = k, v
            k, v = cache[0][:, :, :stop], cache[1][:, :, :stop]
        # A single newest position attends to everything before it, so it needs no mask.
        mixed = attention(q, k, v, sees, self.causal and q.shape[2] > 1 and sees is None)
        x_BTD = x_BTD + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_BTD + self.drop(self.mlp(self.norm_mlp(x_BTD)))


def attention(q: Tensor, k: Tensor, v: Tensor, sees: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v, float [B, H, R, d]; k and v [B, G, T, d], of which H / G heads share each.

    `sees`, bool [R, T] or [B, 1, R, T], or `causal`, where R = T: what each row attends to. On a CPU a training does
    without torch's kernels: in bf16 the backward pass of the fused one takes many times as long as plain products for
    the few tokens of an image (findings/torch_sdpa_bf16_backward.sh); the unfused one searches every row for -inf.
    """
    shared = q.shape[1] // k.shape[1]
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, sees, is_causal=causal, enable_gqa=shared > 1)
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    length, width = q.shape[2:]
    bias = q.new_full((length, length), -torch.inf).triu(1) if causal else q.new_zeros(1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=width**-0.5)
    scores = scores.unflatten(0, q.shape[:2])
    if sees is not None:
        scores = scores.masked_fill(~sees, -torch.inf)
    return scores.softmax(-1) @ v


def logits_at(head: Callable[[Tensor], Tensor], hidden_BTD: Tensor, at_BT: Tensor) -> Tensor:
    """float32 [M, K]: the head's logits at the M true positions, row-major.

    It sees zeros up to a multiple of 64 rows, and of an eighth of all positions where nothing is trained: for another
    number at every step, oneDNN would compile new kernels and keep a gigabyte of them, between buffers that no longer
    fit where the last ones lay.
    """
    rows, multiple = hidden_BTD[at_BT], 64 if torch.is_grad_enabled() else max(64, at_BT.numel() // 8)
    return head(F.pad(rows, (0, 0, 0, -len(rows) % multiple)))[: len(rows)].float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """float [..., T, d]: channel i and channel i + d/2 turned as a pair by the angle of their position."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def run(blocks: nn.ModuleList, x_BTD: Tensor, cache: Cache | None = None, start: int = 0) -> Tensor:
    """Apply all blocks; float [B, T, D] -> [B, T, D]."""
    for index, block in enumerate(blocks):
        x_BTD = block(x_BTD, cache[index] if cache is not None else None, start)
    return x_BTD


def new_cache(blocks: nn.ModuleList, batch: int, positions: int) -> Cache:
    """Room for the keys and values of `batch` sequences."""
    cache: Cache = []
    for block in blocks:
        assert isinstance(block, Block)
        like, dtype = block.norm_attention.weight, block.qkv.weight.dtype
        shape = (batch, block.kv_heads, positions, block.head_dim)
        cache.append((like.new_empty(shape, dtype=dtype), like.new_empty(shape, dtype=dtype)))
    return cache


def start_weights(module: nn.Module) -> None:
    """For `Module.apply`: linear maps and embeddings start at N(0, 0.02²), biases at 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def shrink_branches(blocks: nn.ModuleList) -> None:
    """Scale down the initial weights of residual branches, as in GPT-2."""
    std = 0.02 / (2 * len(blocks)) ** 0.5
    for block in blocks:
        assert isinstance(block, Block)
        nn.init.normal_(block.out.weight, std=std)
        nn.init.normal_(block.mlp[-1].get_parameter("weight"), std=std)


class Product(nn.Module):
    """A linear map for inference alone, float [..., in] -> `dtype` [..., out], with weights packed where that pays.

    Weights are packed for products of `rows` rows; MKL is slow with others. `gelu` is applied afterwards.
    """

    def __init__(self, linear: nn.Linear, rows: int, dtype: torch.dtype, gelu: bool = False):
        super().__init__()
        self.weight, self.bias = linear.weight.detach().to(dtype), linear.bias.detach().to(dtype)
        self.rows, self.gelu, self.packer = rows, gelu, packer_of(linear, rows, dtype)
        if self.packer == "oneDNN":
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
        if self.packer == "MKL":
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.packer == "oneDNN":
            after = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, after, [], "none")
        if self.packer == "MKL":
            x = torch.ops.mkl._mkl_linear.default(x, self.packed, self.weight, self.bias, self.rows)
        else:
            x = F.linear(x, self.weight, self.bias)
        return F.gelu(x) if self.gelu else x


def packer_of(linear: nn.Linear, rows: int, dtype: torch.dtype) -> Literal["oneDNN", "MKL", ""]:
    """The library whose layout makes products faster than torch's plain weights do; "" for none.

    Measured (docs/log/speed.md): bf16 always by oneDNN. fp32 only in products of few rows; there MKL's layout on its
    own maker's processors, and oneDNN's on others, if the matrix is large. Only x86 was measured.
    """
    cpu = torch.cpu.get_capabilities() if linear.weight.device.type == "cpu" else {}
    if cpu.get("architecture") != "x86_64" or not torch.backends.mkldnn.is_available():
        return ""
    if dtype != torch.float32 or not 8 <= rows <= 1024:
        return "oneDNN" if dtype != torch.float32 else ""
    if torch.backends.mkl.is_available() and "Intel" in cpu.get("cpu_name", ""):
        return "MKL"
    return "oneDNN" if linear.weight.numel() >= 2**18 else ""


def for_sampling(network: Network, rows: int) -> Network:
    """The same network for inference in the dtype that `compute` set; most products have `rows` rows.

    Linear maps become `Product`s where that is faster; everything else is shared with `network`. In fp32 GELU stays
    apart, since oneDNN's differs in the last digits.
    """
    device = next(network.parameters()).device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    slow = [one for one in linears if dtype != one.weight.dtype or packer_of(one, rows, dtype)]
    gelus = gelus_of(network) if dtype != torch.float32 else {}
    kept: dict[int, Any] = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    kept |= {id(one): Product(one, rows, dtype, id(one) in gelus) for one in slow}
    kept |= {id(gelu): nn.Identity() for gelu in gelus.values()}
    return copy.deepcopy(network, kept) if slow else network


def gelus_of(network: nn.Module) -> dict[int, nn.Module]:
    """{id of a linear map: the GELU right after it}."""
    pairs = [pair for module in network.modules() if isinstance(module, nn.Sequential) for pair in pairwise(module)]
    return {id(one): two for one, two in pairs if isinstance(one, nn.Linear) and isinstance(two, nn.GELU)}
