"""A ViT's forward pass in plain PyTorch, straight from a state dict of DINO's names: a second opinion on an export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np


def load(path: Path) -> dict[str, Any]:
    """Return the tensors of a .safetensors or .pth file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def features(
    state: dict[str, Any],
    images: np.ndarray,
    *,
    heads: int,
    eps: float = 1e-6,
    offset: float = 0.0,
    antialias: bool = False,
) -> np.ndarray:
    """Return the normed CLS and patch tokens [b, 1 + n, d] of images [b, h, w, 3].

    Args:
        state: Every tensor in it must be used, and none may be missing.
        images: Normalised.
        heads: Of the attention.
        eps: Of the layer norms.
        offset: Added to the grid's size before the scale factor of position interpolation is taken.
        antialias: Of that interpolation.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If one is left over.
    """
    import torch

    net = _Network(state, heads, eps)
    with torch.inference_mode():
        x, registers = net.tokens(torch.tensor(images).permute(0, 3, 1, 2), offset, antialias)
        block = 0
        while f"blocks.{block}.norm1.weight" in net.left:
            x = net.block(x, f"blocks.{block}")
            block += 1
        x = net.norm(x, "norm")
    if net.left:
        raise ValueError(f"tensors that no ViT has: {', '.join(net.left)}")
    return torch.cat([x[:, :1], x[:, 1 + registers :]], dim=1).numpy()


class _Network:
    """The layers by name; each takes its tensors out of `left`."""

    def __init__(self, state: dict[str, Any], heads: int, eps: float) -> None:
        from torch.nn import functional

        self.left, self.heads, self.eps, self.f = dict(state), heads, eps, functional

    def tokens(self, pixels: Any, offset: float, antialias: bool) -> tuple[Any, int]:
        """Return the tokens [b, 1 + r + n, d] that enter the first block, and r."""
        import torch

        weight, bias = self._take("patch_embed.proj")
        x = self.f.conv2d(pixels, weight, bias, stride=weight.shape[-1])
        positions = self._positions((x.shape[2], x.shape[3]), offset, antialias)
        x = x.flatten(2).transpose(1, 2) + positions[:, 1:]
        cls = self.left.pop("cls_token") + positions[:, :1]
        registers = self.left.pop("register_tokens", cls[:, :0])
        self.left.pop("mask_token", None)  # stands for patches in pretraining only
        first = torch.cat([cls, registers], dim=1).expand(len(x), -1, -1)
        return torch.cat([first, x], dim=1), registers.shape[1]

    def block(self, x: Any, name: str) -> Any:
        """Return the output of one block."""
        x = x + self._attention(self.norm(x, f"{name}.norm1"), f"{name}.attn") * self.left.pop(f"{name}.ls1.gamma", 1.0)
        return x + self._mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp") * self.left.pop(f"{name}.ls2.gamma", 1.0)

    def norm(self, x: Any, name: str) -> Any:
        """Return the layer norm of x."""
        return self.f.layer_norm(x, x.shape[-1:], *self._take(name), self.eps)

    def _attention(self, x: Any, name: str) -> Any:
        b, n, d = x.shape
        qkv = self._linear(x, f"{name}.qkv").reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = self.f.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, n, d)
        return self._linear(out, f"{name}.proj")

    def _mlp(self, x: Any, name: str) -> Any:
        if f"{name}.w12.weight" in self.left:
            gate, x = self._linear(x, f"{name}.w12").chunk(2, dim=-1)
            return self._linear(self.f.silu(gate) * x, f"{name}.w3")
        return self._linear(self.f.gelu(self._linear(x, f"{name}.fc1")), f"{name}.fc2")

    def _linear(self, x: Any, name: str) -> Any:
        return self.f.linear(x, *self._take(name))

    def _take(self, name: str) -> tuple[Any, Any]:
        return self.left.pop(f"{name}.weight"), self.left.pop(f"{name}.bias")

    def _positions(self, grid: tuple[int, int], offset: float, antialias: bool) -> Any:
        """Return the positions [1, 1 + n, d] for a grid, interpolated as DINO does."""
        import torch

        positions = self.left.pop("pos_embed")
        side = math.isqrt(positions.shape[1] - 1)
        if grid == (side, side):
            return positions
        patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        target = {"scale_factor": tuple((n + offset) / side for n in grid)} if offset else {"size": grid}
        patches = self.f.interpolate(patches, **target, mode="bicubic", antialias=antialias)
        return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
