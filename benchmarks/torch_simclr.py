"""SimCLR in PyTorch with a ViT: all views in one batch, all similarities in one matrix."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_vit import ViT


class Projector(nn.Module):
    """Linear layers, batch norm after each and ReLU between; `sizes` are those of `problem["projector"]`."""

    def __init__(self, width: int, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.layers = sizes["layers"]
        widths = [width, *[sizes["hidden"]] * (self.layers - 1), sizes["outputs"]]
        for i in range(1, self.layers + 1):
            self.add_module(f"fc{i}", nn.Linear(widths[i - 1], widths[i], bias=False))
            if i < self.layers or sizes["last_norm"]:
                norm = nn.BatchNorm1d(widths[i], affine=i < self.layers, track_running_stats=False)
                self.add_module(f"norm{i}", norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the projections."""
        for i in range(1, self.layers + 1):
            x = self.get_submodule(f"fc{i}")(x)
            x = self.get_submodule(f"norm{i}")(x) if hasattr(self, f"norm{i}") else x
            x = x.relu() if i < self.layers else x
        return x


class SimCLR:
    """The objective of `ssljax.objectives.simclr`."""

    teacher = None

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem = problem
        encoder, projector = ViT(problem), Projector(problem["encoder"]["width"], problem["projector"])
        self.student = nn.ModuleDict({"encoder": encoder, "projector": projector})

    def views(self, large: Tensor, _: Tensor) -> tuple[Tensor]:
        """Turn the views of a batch [b, 2, s, s, 3] into what `loss` takes."""
        return (large.movedim(-1, 2).contiguous(),)

    def draw(self, device: Any) -> None:
        """Return nothing: but for drop path all is given."""

    def loss(self, large: Tensor) -> tuple[Tensor, None]:
        """Return the loss of two views of each image [b, 2, 3, s, s]."""
        z = self.student["projector"](self.student["encoder"](large.flatten(0, 1)).cls)
        z = F.normalize(z.float(), dim=-1)
        places = torch.arange(len(z), device=z.device)
        itself = places[:, None] == places[None, :]
        products = (z @ z.T / self.problem["temperature"]).masked_fill(itself, -torch.inf)
        return F.cross_entropy(products, places ^ 1), None  # a sample's views lie side by side
