"""DoRA in PyTorch, twice: batched as well as its shapes allow, and in the order of the released algorithm.

Equal work: the objective of `ssljax.objectives.dora` on the same shapes, with Sinkhorn-Knopp and a threshold for each
frame. `Released` calls the encoder frame by frame, the student's masked frames object by object, applies masks to
pixels, makes the attention matrix in every block, and calls the head for each of these; it makes the same loss.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_vit import DINOHead, Output, ViT


class DoRA:
    """The fair version: one call of the teacher, one of the student on masked frames and one on local crops."""

    made = False

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem = problem
        width = problem["encoder"]["width"]
        self.student = nn.ModuleDict({"encoder": ViT(problem, self.made), "head": DINOHead(width, problem["head"])})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.center = torch.zeros(problem["head"]["prototypes"])

    def views(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the views of a batch [b, t, (l,) s, s, 3] into what `loss` takes."""
        return large.movedim(-1, 2).contiguous(), small.movedim(-1, 3).contiguous()

    def draw(self, device: Any) -> Tensor:
        """Return the heads that the objects of each clip start from [b, k]."""
        random = torch.rand(self.problem["batch"], self.problem["encoder"]["heads"], device=device)
        return random.argsort(dim=1)[:, : self.problem["objects"]]

    def loss(self, large: Tensor, small: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of frames [b, t, 3, g, g] and crops [b, t, l, 3, s, s], and the teacher's mean logits."""
        b, t = large.shape[:2]
        objects, student = heads.shape[1], self.student["encoder"]
        with torch.no_grad():
            out = self.teacher["encoder"](large.flatten(0, 1))
            logits = self.teacher["head"](out.cls).unflatten(0, (b, t)).float()
            targets = self.targets(logits)
            masks = self._masks(out, heads, t)
        projected = student.project(large.flatten(0, 1)).unflatten(0, (b, t))
        masked = projected[:, :, None] * masks[..., None].to(projected.dtype)
        cls = [student.encode(masked.flatten(0, 2)).cls.unflatten(0, (b, t, objects))]
        if small.shape[2]:
            cls.append(student(small.flatten(0, 2)).cls.unflatten(0, small.shape[:3]))
        student_logits = self.student["head"](torch.cat(cls, dim=2))
        entropies = cross_entropy(student_logits, targets, self.problem["student_temperature"])
        whole = entropies[:, :, :objects].mean()
        local = entropies[:, :, objects:].mean() if small.shape[2] else whole
        return (whole + local) / 2, logits.mean(dim=(0, 1))

    def targets(self, logits: Tensor) -> Tensor:
        """Return the teacher's probabilities, centred and sharpened."""
        return ((logits - self.center) / self.problem["values"]["teacher_temperature"]).softmax(dim=-1)

    def after(self, mean: Tensor) -> None:
        """Move the centre."""
        self.center.lerp_(mean, 1.0 - self.problem["center_momentum"])

    def _masks(self, out: Output, heads: Tensor, t: int) -> Tensor:
        """Return the masks [b, t, k, n]; out is of all frames, clip by clip."""
        keys = out.keys[:, :, 1:].transpose(1, 2).flatten(2).unflatten(0, (-1, t)).float()
        queries, patches = (x.unflatten(0, (-1, t))[:, 0].float() for x in (out.queries, out.patches))
        every = out.keys.unflatten(0, (-1, t))[:, 0].float()
        scores = torch.einsum("bhd,bhnd->bhn", queries[:, :, 0], every) * queries.shape[-1] ** -0.5
        attention = scores.softmax(dim=-1)[:, :, 1:]
        objects = self.discover(attention, queries[:, :, 1:].transpose(1, 2).flatten(2), patches, heads)
        maps = torch.einsum("bkd,btnd->btkn", objects, keys) * keys.shape[-1] ** -0.5
        return above_mean(maps.softmax(dim=-1))

    def discover(self, attention: Tensor, queries: Tensor, patches: Tensor, heads: Tensor) -> Tensor:
        """Return the refined prototypes [b, k, d] of attention [b, h, n], queries and patches [b, n, d]."""
        chosen = attention.gather(1, heads[:, :, None].expand(-1, -1, attention.shape[2]))
        prototypes = chosen @ queries
        normalised = patches / patches.norm(dim=-1, keepdim=True)
        assignment = self.assign(normalised @ prototypes.transpose(1, 2) / self.problem["epsilon"])
        return assignment.transpose(1, 2) @ normalised

    def assign(self, logs: Tensor) -> Tensor:
        """Return Sinkhorn-Knopp's assignment of n patches to k prototypes, of scores [b, n, k] over epsilon."""
        for _ in range(self.problem["iterations"]):
            logs = logs - logs.logsumexp(dim=1, keepdim=True)
            logs = logs - logs.logsumexp(dim=2, keepdim=True)
        return logs.exp()


class Released(DoRA):
    """The order of the released algorithm."""

    made = True

    def loss(self, large: Tensor, small: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """As above."""
        frames, objects = range(large.shape[1]), range(heads.shape[1])
        with torch.no_grad():
            seen = [self.teacher["encoder"](large[:, i]) for i in frames]
            logits = torch.stack([self.teacher["head"](out.cls) for out in seen])
            attention = torch.stack([out.attention for out in seen])
            keys = torch.stack([out.keys for out in seen])
            masked = self._masked(large, attention, seen[0], keys, heads)
        student, head, temperature = self.student["encoder"], self.student["head"], self.problem["student_temperature"]
        whole = [[head(student(masked[k][:, i]).cls) for i in frames] for k in objects]
        crops = (len(small), small.shape[2])
        local = [head(student(small[:, i].flatten(0, 1)).cls).unflatten(0, crops) for i in frames]
        total = 0.0
        for i in frames:
            targets = self.targets(logits[i])
            local_loss = log_cross_entropy(local[i], targets[:, None], temperature).mean()
            for k in objects:
                total = total + (log_cross_entropy(whole[k][i], targets, temperature).mean() + local_loss) / 2
        return total / (len(frames) * len(objects)), logits.mean(dim=(0, 1))

    def assign(self, logs: Tensor) -> Tensor:
        """As above, on exponentials."""
        mass = (logs - logs.amax(dim=(1, 2), keepdim=True)).exp()
        for _ in range(self.problem["iterations"]):
            mass = mass / mass.sum(dim=1, keepdim=True) / mass.shape[2]
            mass = mass / mass.sum(dim=2, keepdim=True) / mass.shape[1]
        return mass * mass.shape[1]

    def _masked(self, large: Tensor, attention: Tensor, first: Output, keys: Tensor, heads: Tensor) -> list[Tensor]:
        """Return the frames seen through each object's mask, k times [b, t, 3, g, g]."""
        queries = first.queries[:, :, 1:].transpose(1, 2).flatten(2).float()
        objects = self.discover(attention[0][:, :, 0, 1:].float(), queries, first.patches.float(), heads)
        masked = torch.zeros(objects.shape[1], *large.shape, device=large.device)
        patch_size = self.problem["encoder"]["patch_size"]
        for i in range(large.shape[1]):
            joined = keys[i][:, :, 1:].transpose(1, 2).flatten(2).float()
            for k in range(objects.shape[1]):
                maps = (objects[:, k, None] @ joined.transpose(1, 2) * joined.shape[-1] ** -0.5).softmax(dim=-1)
                mask = above_mean(maps).float().unflatten(-1, (large.shape[-1] // patch_size, -1))
                masked[k, :, i] = large[:, i] * nn.functional.interpolate(mask, scale_factor=patch_size)
        return list(masked)


def above_mean(maps: Tensor) -> Tensor:
    """Return where L2-normalised maps over the last axis are above their mean."""
    normalised = maps / maps.norm(dim=-1, keepdim=True)
    return normalised > normalised.mean(dim=-1, keepdim=True)


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy [..., v] of v views' logits [..., v, c] with one target [..., c]."""
    scaled = logits.float() / temperature
    return scaled.logsumexp(dim=-1) - (scaled @ targets[..., None])[..., 0]


def log_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy as it is mostly written: minus the sum of targets times logarithms."""
    return -(targets * (logits.float() / temperature).log_softmax(dim=-1)).sum(dim=-1)
