"""A masked autoencoder of images in PyTorch: only the visible patches are encoded."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_vit import Block, ViT, sincos


class Decoder(nn.Module):
    """The decoder of `ssljax.models.mae` for images; `sizes` are those of `problem["decoder"]`."""

    def __init__(self, width: int, side: int, sizes: dict[str, Any]) -> None:
        super().__init__()
        hidden = sizes["hidden"]
        self.embed = nn.Linear(width, hidden)
        self.mask = nn.Parameter(0.02 * torch.randn(hidden))
        self.register_buffer("position", sincos(hidden, side))
        inner = int(hidden * sizes["mlp_ratio"])
        self.blocks = nn.ModuleList(Block(hidden, sizes["heads"], inner) for _ in range(sizes["depth"]))
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.pixels = nn.Linear(hidden, 3 * sizes["patch_size"] ** 2)

    def forward(self, cls: Tensor, visible: Tensor, order: Tensor) -> Tensor:
        """Return the predicted patches [b, n, p] of CLS [b, d] and visible patches [b, v, d].

        Args:
            cls: The encoder's.
            visible: The encoder's, by rising noise.
            order: Each patch's place by noise [b, n].
        """
        x = self.embed(torch.cat([cls[:, None], visible], dim=1))
        masked = self.mask.to(x.dtype).expand(len(x), order.shape[1] - visible.shape[1], -1)
        patches = torch.cat([x[:, 1:], masked], dim=1).gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.position
        for block in self.blocks:
            x, *_ = block(x)
        return self.pixels(self.norm(x)[:, 1:])


class MAE:
    """The objective of `ssljax.objectives.mae` on images."""

    teacher = None

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem, self.patch_size = problem, problem["encoder"]["patch_size"]
        side, width = problem["global_size"] // self.patch_size, problem["encoder"]["width"]
        self.patches = side**2
        self.visible = int(self.patches * (1 - problem["mask_ratio"]) + 1e-6)
        networks = {"encoder": ViT(problem), "decoder": Decoder(width, side, problem["decoder"])}
        self.student = nn.ModuleDict(networks)

    def views(self, images: Tensor) -> tuple[Tensor]:
        """Turn the views of a batch [b, s, s, 3] into what `loss` takes."""
        return (images.movedim(-1, 1).contiguous(),)

    def draw(self, device: Any) -> Tensor:
        """Return the noise [b, n] that masks the patches."""
        return torch.rand(self.problem["batch"], self.patches, device=device)

    def loss(self, images: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        """Return the loss of images [b, 3, s, s]."""
        shuffled = noise.argsort(dim=1)
        order = shuffled.argsort(dim=1)
        out = self.student["encoder"](images, shuffled[:, : self.visible])
        predicted = self.student["decoder"](out.cls, out.patches, order).float()
        errors = (predicted - self.targets(images)).square().mean(dim=-1)
        hidden = (order >= self.visible).float()
        return (errors * hidden).sum() / hidden.sum(), None

    def targets(self, images: Tensor) -> Tensor:
        """Return the patches [b, n, p], perhaps each less its mean and over its standard deviation."""
        p = self.patch_size
        patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        if not self.problem["norm_pix_loss"]:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()
