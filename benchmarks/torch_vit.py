"""The vision transformer and the heads of the PyTorch baselines: the networks of `ssljax.models`, written in its terms.

The names of parameters are those of `ssljax`, but for PyTorch's own `weight`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """What a ViT returns.

    Attributes:
        cls: [b, d], after the final norm.
        patches: [b, n, d], after the final norm.
        queries: [b, h, 1 + n, dh], of the last block.
        keys: [b, h, 1 + n, dh], of the last block.
        attention: [b, h, 1 + n, 1 + n], of the last block; None where it is never made.
    """

    cls: Tensor
    patches: Tensor
    queries: Tensor
    keys: Tensor
    attention: Tensor | None


class Attention(nn.Module):
    """Self-attention, fused; or with its matrix made, as the released code of DINO and DoRA does."""

    def __init__(self, width: int, heads: int, made: bool) -> None:
        super().__init__()
        self.heads, self.made = heads, made
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the attended tokens, queries, keys and perhaps the attention."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = None
        if self.made:
            attention = (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(dim=-1)
            y = attention @ values
        else:
            y = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(y.transpose(1, 2).flatten(2)), queries, keys, attention


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(width, hidden), linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each dropped for some sequences while training."""

    def __init__(self, width: int, heads: int, hidden: int, rate: float = 0.0, made: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, heads, made), Mlp(width, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the tokens, and what the attention returns beside them."""
        y, *seen = self.attention(self.norm1(x))
        x = x + self._dropped(y)
        return x + self._dropped(self.mlp(self.norm2(x))), *seen

    def _dropped(self, y: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return y
        kept = torch.rand(len(y), 1, 1, device=y.device) >= self.rate
        return y * (kept.to(y.dtype) / (1.0 - self.rate))


class ViT(nn.Module):
    """A vision transformer with CLS token, for a problem's global and local views."""

    def __init__(self, problem: dict[str, Any], made: bool = False) -> None:
        super().__init__()
        sizes = problem["encoder"]
        width, depth, self.patch_size = sizes["width"], sizes["depth"], sizes["patch_size"]
        self.side = sizes["image_size"] // self.patch_size
        for size in {problem["global_size"], problem["local_size"]}:
            side = size // self.patch_size
            matrix = resampling(self.side, side, sizes["position_offset"]) if side not in (0, self.side) else None
            self.register_buffer(f"resampling{side}", matrix, persistent=False)
        self.patch = nn.Conv2d(3, width, self.patch_size, self.patch_size)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        if sizes["learned"]:
            self.position = nn.Parameter(0.02 * torch.randn(1 + self.side**2, width))
        else:
            self.register_buffer("position", sincos(width, self.side))
        rates = torch.linspace(0.0, sizes["drop_path"], depth).tolist()
        self.blocks = nn.ModuleList(Block(width, sizes["heads"], sizes["hidden"], rate, made) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Output:
        """Return the encoding of images [b, 3, s, s], or of the patches whose indices [b, m] are kept."""
        return self.encode(self.project(images), keep)

    def project(self, images: Tensor) -> Tensor:
        """Return the patch embedding without its bias [b, n, d]."""
        return F.conv2d(images, self.patch.weight, stride=self.patch_size).flatten(2).transpose(1, 2)

    def encode(self, projected: Tensor, keep: Tensor | None = None) -> Output:
        """Return the encoding of projected patches."""
        position = self.positions(int(projected.shape[1] ** 0.5))
        patches = projected + (self.patch.bias + position[1:])
        if keep is not None:
            patches = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[2]))
        first = (self.cls + position[0]).to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([first, patches], dim=1)
        for block in self.blocks:
            x, *seen = block(x)
        x = self.norm(x)
        return Output(x[:, 0], x[:, 1:], *seen)

    def positions(self, side: int) -> Tensor:
        """Return the positions of CLS and of a square grid, interpolated where it is not the model's own."""
        if side == self.side:
            return self.position
        return torch.cat([self.position[:1], getattr(self, f"resampling{side}") @ self.position[1:]])


class WeightNormalised(nn.Module):
    """A linear map whose rows have the length `gain`, which may be fixed at one."""

    def __init__(self, inputs: int, outputs: int, fixed: bool) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.gain = nn.Parameter(torch.ones(outputs, 1), requires_grad=not fixed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped x."""
        return F.linear(x, torch._weight_norm(self.weight, self.gain, 0))


class DINOHead(nn.Module):
    """An MLP with GELU, L2 norm and a weight-normalised layer; `sizes` are those of `problem["head"]`."""

    def __init__(self, width: int, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.layers = sizes["layers"]
        widths = [width, *[sizes["hidden"]] * (self.layers - 1), sizes["bottleneck"]]
        for i in range(self.layers):
            self.add_module(f"fc{i + 1}", linear(widths[i], widths[i + 1]))
        self.last = WeightNormalised(sizes["bottleneck"], sizes["prototypes"], sizes["norm_last_layer"])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all prototypes."""
        for i in range(1, self.layers + 1):
            x = self.get_submodule(f"fc{i}")(x)
            x = F.gelu(x) if i < self.layers else x
        return self.last(F.normalize(x, dim=-1))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that starts normal, with zero biases."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def sincos(width: int, side: int) -> Tensor:
    """Return MAE's fixed positions of CLS, zero, and of a square grid of patches [1 + side * side, width]."""
    frequencies = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]
    grid = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width), grid])


def resampling(old: int, new: int, offset: float) -> Tensor:
    """Return the matrix [new * new, old * old] that interpolates positions of a square grid, as DINO does it."""
    scale = (new + offset) / old
    each = torch.eye(old * old).unflatten(1, (1, old, old))
    return F.interpolate(each, scale_factor=(scale, scale), mode="bicubic").flatten(1).T.contiguous()
