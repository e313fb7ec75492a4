"""The Qwen2.5-VL architecture at 1.18 M parameters, in plain PyTorch made for training on a CPU.

Computes what transformers' Qwen2_5_VLForConditionalGeneration computes (`verify_export.py` compares
them) for one 64x64 image per dialogue, always in columns 3..18. Parameter names are those of the
published Qwen2.5-VL checkpoints. Sizes: B batch, T tokens, S keys, C decoder width, H query heads,
G KV heads, D head dim, P patches, N windows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocabulary import IMAGE, IMAGE_COLUMN, WORDS

KeyValue = tuple[Tensor, Tensor]  # each (B, G, S, D), keys already rotated


@dataclass(frozen=True)
class Config:
    vocab_size: int = len(WORDS)
    hidden_size: int = 96
    num_layers: int = 9
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256
    rope_theta: float = 10000.0
    mrope_section: tuple[int, int, int] = (2, 5, 5)
    eps: float = 1e-6
    image_size: int = 64
    patch_size: int = 8
    merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 32
    vision_hidden_size: int = 64
    vision_depth: int = 3
    vision_heads: int = 4
    vision_intermediate_size: int = 160
    full_attention_blocks: tuple[int, ...] = (2,)
    vision_rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def image_side(self) -> int:
        """Merged cells per image side."""
        return self.image_size // self.patch_size // self.merge_size


class _RmsNorm(torch.autograd.Function):
    """RMSNorm with a hand-written backward: a third of the autograd graph's kernels, which dominate at this width."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(eps))
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx, grad: Tensor):
        normed, scale, weight = ctx.saved_tensors
        grad_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad_x = grad * weight
        projection = (grad_x * normed).mean(-1, keepdim=True)
        return grad_x.addcmul_(normed, projection, value=-1).mul_(scale), grad_weight, None


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _RmsNorm.apply(x, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: x (.., D), cos and sin (.., D/2); pairs are (i, i + D/2)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


# ---- vision tower


class VisionAttention(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads = c.vision_heads
        self.qkv = nn.Linear(c.vision_hidden_size, 3 * c.vision_hidden_size)
        self.proj = nn.Linear(c.vision_hidden_size, c.vision_hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (N, L, width): attention within each of N sequences."""
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
        pattern = torch.softmax(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        return self.proj((pattern @ v).transpose(1, 2).reshape(n, length, width))


class GatedMlp(nn.Module):
    """SwiGLU. The vision tower's has biases, the decoder's has none."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(c.vision_hidden_size, c.eps)
        self.norm2 = RMSNorm(c.vision_hidden_size, c.eps)
        self.attn = VisionAttention(c)
        self.mlp = GatedMlp(c.vision_hidden_size, c.vision_intermediate_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.width = c.vision_hidden_size * c.merge_size**2
        self.ln_q = RMSNorm(c.vision_hidden_size, c.eps)
        self.mlp = nn.Sequential(nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, c.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.width))


class PatchEmbed(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        kernel = (c.temporal_patch_size, c.patch_size, c.patch_size)
        self.proj = nn.Conv3d(3, c.vision_hidden_size, kernel, kernel, bias=False)


class Vision(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.patch_embed = PatchEmbed(c)
        self.blocks = nn.ModuleList([VisionBlock(c) for _ in range(c.vision_depth)])
        self.merger = PatchMerger(c)

        # Patches are processed window by window, inside a window merged cell by merged cell.
        side, window, m = c.image_size // c.patch_size, c.window_size // c.patch_size, c.merge_size
        order = [
            (wy * window + my * m + iy, wx * window + mx * m + ix)
            for wy in range(side // window)
            for wx in range(side // window)
            for my in range(window // m)
            for mx in range(window // m)
            for iy in range(m)
            for ix in range(m)
        ]
        merged = [(y // m) * (side // m) + x // m for y, x in order[:: m * m]]
        quarter = c.vision_hidden_size // c.vision_heads // 2
        inv_freq = c.vision_rope_theta ** (-torch.arange(0, quarter, 2).float() / quarter)
        at = torch.tensor(order).float()
        angles = torch.cat((at[:, :1] * inv_freq, at[:, 1:] * inv_freq), -1)  # (P, D/2): rows, then columns
        self.register_buffer("order", torch.tensor([y * side + x for y, x in order]), persistent=False)
        self.register_buffer("raster", torch.argsort(torch.tensor(merged)), persistent=False)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.windows, self.window_patches = (side // window) ** 2, window * window

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, 64, 64) -> image tokens (B, 16, C) in raster order."""
        c, batch = self.config, pixels.shape[0]
        side, p = c.image_size // c.patch_size, c.patch_size
        x = pixels.view(batch, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(batch, side * side, 3 * p * p)[:, self.order]
        # an image is one frame repeated, so the temporal kernel may be summed first
        x = x @ self.patch_embed.proj.weight.sum(2).view(c.vision_hidden_size, -1).t()
        n = self.windows
        cos = self.cos.view(n, self.window_patches, -1).repeat(batch, 1, 1).unsqueeze(1)
        sin = self.sin.view(n, self.window_patches, -1).repeat(batch, 1, 1).unsqueeze(1)
        for i, block in enumerate(self.blocks):
            if i in c.full_attention_blocks:
                x = block(x.reshape(batch, side * side, -1), self.cos, self.sin)
            else:
                x = block(x.reshape(batch * n, self.window_patches, -1), cos, sin).reshape(batch, side * side, -1)
        return self.merger(x)[:, self.raster]


# ---- decoder


class Attention(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.num_heads, c.num_kv_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_heads * c.head_dim)
        self.k_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim)
        self.v_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """x (B, T, C), mask broadcastable to (B, G, H/G, T, S) -> (B, T, C) and this layer's keys and values."""
        batch, length, _ = x.shape
        heads, kv_heads, dim = self.heads, self.kv_heads, self.head_dim
        projections = (self.q_proj, self.k_proj, self.v_proj)
        # one GEMM instead of three
        weight, bias = torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections])
        qkv = F.linear(x, weight, bias).view(batch, length, heads + 2 * kv_heads, dim).transpose(1, 2)
        qk, v = rotate(qkv[:, : heads + kv_heads], cos, sin), qkv[:, heads + kv_heads :]
        q, k = qk[:, :heads], qk[:, heads:]
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        group = heads // kv_heads  # query head h reads KV head h // group
        logits = (q.reshape(batch, kv_heads, group * length, dim) * dim**-0.5) @ k.transpose(-1, -2)
        pattern = torch.softmax(logits.view(batch, kv_heads, group, length, -1) + mask, -1)
        z = (pattern.view(batch, kv_heads, group * length, -1) @ v).view(batch, heads, length, dim)
        return self.o_proj(z.transpose(1, 2).reshape(batch, length, heads * dim)), (k, v)


class DecoderLayer(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.eps)
        self.self_attn = Attention(c)
        self.mlp = GatedMlp(c.hidden_size, c.intermediate_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        attn_out, kv = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + attn_out
        return x + self.mlp(self.post_attention_layernorm(x)), kv


class Decoder(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(c) for _ in range(c.num_layers)])
        self.norm = RMSNorm(c.hidden_size, c.eps)


@dataclass
class Sampled:
    """Replies, (B * group, max_new), filled with <|im_end|> after the end."""

    tokens: Tensor
    log_probs: Tensor  # of the sampled tokens at sampling temperature; 0 when greedy
    kept: Tensor  # bool: positions up to and including <|im_end|>


class Model(nn.Module):
    def __init__(self, config: Config = Config()) -> None:
        super().__init__()
        self.config = c = config
        self.visual = Vision(c)
        self.model = Decoder(c)
        self.image_tokens = c.image_side**2
        inv_freq = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        section = [axis for axis, n in enumerate(c.mrope_section) for _ in range(n)]
        assert len(section) == c.head_dim // 2
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("section", torch.tensor(section), persistent=False)
        self.apply(self._init)
        for layer in self.model.layers:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight.data.mul_((2 * c.num_layers) ** -0.5)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=min(0.08, module.weight.shape[1] ** -0.5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Embedding, nn.Conv3d)):
            nn.init.normal_(module.weight, std=0.05)

    def has_image(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B,) bool."""
        if ids.shape[1] <= IMAGE_COLUMN:
            return torch.zeros(len(ids), dtype=torch.bool)
        return ids[:, IMAGE_COLUMN] == IMAGE

    def positions(self, ids: Tensor) -> Tensor:
        """M-RoPE positions (3, B, T): the image stands at t = s, h = s + row, w = s + column; text resumes at s + 4."""
        batch, length = ids.shape
        positions = torch.arange(length).expand(3, batch, length).clone()
        has = self.has_image(ids)
        if has.any():
            r, side, end = torch.arange(self.image_tokens), self.config.image_side, IMAGE_COLUMN + self.image_tokens
            positions[:, has, end:] -= self.image_tokens - side
            grid = torch.stack((torch.zeros_like(r), r // side, r % side)) + IMAGE_COLUMN
            positions[:, has, IMAGE_COLUMN:end] = grid[:, None, :].expand(3, int(has.sum()), self.image_tokens)
        return positions

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(3, B, T) -> cos, sin (B, 1, T, D/2); frequency i follows the axis of its M-RoPE section."""
        angles = positions.float().unsqueeze(-1) * self.inv_freq
        angles = angles[self.section, :, :, torch.arange(len(self.inv_freq))].permute(1, 2, 0)
        return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)

    def embed(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        """Token embeddings (B, T, C) with image tokens put in. `pixels` holds the images of the rows that have one."""
        x = self.model.embed_tokens(ids)
        if pixels is None or not len(pixels):
            return x
        has, image = self.has_image(ids), self.visual(pixels)
        end = IMAGE_COLUMN + self.image_tokens
        if has.all():
            return torch.cat((x[:, :IMAGE_COLUMN], image, x[:, end:]), 1)
        x = x.clone()
        x[has, IMAGE_COLUMN:end] = image.to(x.dtype)
        return x

    def run(
        self, x: Tensor, positions: Tensor, mask: Tensor, past: list[KeyValue] | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Decoder over embedded tokens x (B, T, C) -> final hidden states (B, T, C), keys and values per layer."""
        cos, sin = self.rotary(positions)
        kept: list[KeyValue] = []
        for i, layer in enumerate(self.model.layers):
            x, kv = layer(x, cos, sin, mask, None if past is None else past[i])
            kept.append(kv)
        return self.model.norm(x), kept

    def logits(self, hidden: Tensor) -> Tensor:
        """(.., C) -> (.., V); embeddings are tied."""
        return hidden @ self.model.embed_tokens.weight.t()

    def forward(self, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
        """ids (B, T) -> hidden states (B, T, C)."""
        return self.run(self.embed(ids, pixels), self.positions(ids), causal(ids.shape[1]))[0]

    def prefill(self, ids: Tensor, lengths: Tensor, pixels: Tensor | None) -> tuple[Tensor, list[KeyValue], Tensor]:
        """Right-padded prompts -> last hidden (B, C), keys and values, next position (B,)."""
        positions = self.positions(ids)
        hidden, kvs = self.run(self.embed(ids, pixels), positions, causal(ids.shape[1]))
        rows = torch.arange(len(ids))
        return hidden[rows, lengths - 1], kvs, positions[0, rows, lengths - 1] + 1

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        lengths: Tensor,
        pixels: Tensor | None,
        max_new: int,
        eos: int,
        temperature: float = 0.0,
        group: int = 1,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """`group` replies to each prompt; each prompt is encoded once. Temperature 0 is greedy."""
        hidden, kvs, position = self.prefill(ids, lengths, pixels)
        mask = padding_mask(ids.shape[1], lengths)
        if group > 1:
            hidden, position, mask = (t.repeat_interleave(group, 0) for t in (hidden, position, mask))
            kvs = [(k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)) for k, v in kvs]
        n = len(ids) * group
        tokens, log_probs = torch.full((n, max_new), eos), torch.zeros(n, max_new)
        rows = torch.arange(n)  # rows still in the batch
        for t in range(max_new):
            logits = self.logits(hidden).float()
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                probs = torch.softmax(logits / temperature, -1)
                token = torch.multinomial(probs, 1, generator=generator).squeeze(1)
                log_probs[rows, t] = torch.log(probs.gather(1, token[:, None]).squeeze(1).clamp_min(1e-30))
            tokens[rows, t] = token
            live = token != eos
            if not live.any() or t == max_new - 1:
                break
            if live.float().mean() < 0.8:  # drop finished rows, but not on every step: copying the cache costs more
                keep = live.nonzero().squeeze(1)
                rows, token, position, mask = rows[keep], token[keep], position[keep], mask[keep]
                kvs = [(k[keep], v[keep]) for k, v in kvs]
            mask = torch.cat((mask, torch.zeros(len(rows), 1)), 1)
            x = self.model.embed_tokens(token[:, None])
            hidden, kvs = self.run(x, position[None, :, None].expand(3, -1, 1), mask[:, None, None, None, :], kvs)
            hidden, position = hidden[:, 0], position + 1
        # finished rows that stayed in the batch went on past their end
        ended = tokens == eos
        first = torch.where(ended.any(1), ended.float().argmax(1), torch.full((n,), max_new - 1))
        kept = torch.arange(max_new)[None] <= first[:, None]
        return Sampled(torch.where(kept, tokens, torch.full_like(tokens, eos)), log_probs * kept, kept)


def causal(length: int) -> Tensor:
    """(T, T): 0 on and below the diagonal, -inf above."""
    return torch.full((length, length), float("-inf")).triu_(1)


def padding_mask(width: int, lengths: Tensor) -> Tensor:
    """(B, T): -inf on right padding."""
    return torch.zeros(len(lengths), width).masked_fill_(torch.arange(width)[None] >= lengths[:, None], float("-inf"))
