"""DINO in PyTorch, batched: one call of the teacher, and of the student one for each size of crop."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_vit import DINOHead, ViT


class DINO:
    """The objective of `ssljax.objectives.dino` with a ViT."""

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem = problem
        encoder, head = ViT(problem), DINOHead(problem["encoder"]["width"], problem["head"])
        self.student = nn.ModuleDict({"encoder": encoder, "head": head})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.center = torch.zeros(problem["head"]["prototypes"])

    def views(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the views of a batch [b, v, s, s, 3] into what `loss` takes."""
        return large.movedim(-1, 2).contiguous(), small.movedim(-1, 2).contiguous()

    def draw(self, device: Any) -> None:
        """Return nothing: but for drop path all is given."""

    def loss(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of global [b, 2, 3, g, g] and local crops [b, l, 3, s, s], and the teacher's mean logits."""
        b, temperature = len(large), self.problem["values"]["teacher_temperature"]
        with torch.no_grad():
            logits = self.teacher["head"](self.teacher["encoder"](large.flatten(0, 1)).cls).float()
            targets = ((logits - self.center) / temperature).softmax(dim=-1).unflatten(0, (b, -1))
        crops = (large, small) if small.shape[1] else (large,)
        cls = [self.student["encoder"](view.flatten(0, 1)).cls.unflatten(0, (b, -1)) for view in crops]
        scaled = self.student["head"](torch.cat(cls, dim=1)).float() / self.problem["student_temperature"]
        # [b, v, g]: a view with itself does not count
        entropies = scaled.logsumexp(dim=-1)[:, :, None] - scaled @ targets.transpose(1, 2)
        other = 1.0 - torch.eye(entropies.shape[1], entropies.shape[2], device=large.device)
        return (entropies.mean(dim=0) * other).sum() / other.sum(), logits.mean(dim=0)

    def after(self, mean: Tensor) -> None:
        """Move the centre."""
        self.center.lerp_(mean, 1.0 - self.problem["center_momentum"])
