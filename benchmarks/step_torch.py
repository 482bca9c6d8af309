"""The worker of `benchmarks.step` that is one of the PyTorch baselines; not to be called by hand. Needs no JAX."""

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import given, workers
from benchmarks.torch_dino import DINO
from benchmarks.torch_dora import DoRA, Released
from benchmarks.torch_mae import MAE
from benchmarks.torch_simclr import SimCLR

MODES = {
    "released": None,
    "eager": None,
    "compiled": "default",
    "autotuned": "max-autotune-no-cudagraphs",
}
"""The baselines, and the mode of `torch.compile` where they are compiled."""


class Update:
    """One update after another: loss, backward pass, clipping, AdamW, moving averages."""

    def __init__(self, objective: Any, problem: dict[str, Any], device: str, mode: str | None) -> None:
        self.objective, self.values, self.device = objective, problem["values"], device
        self.autocast = problem["dtype"] == "bfloat16"
        objective.student.to(device)
        if objective.teacher is not None:
            objective.teacher.to(device)
            objective.center = objective.center.to(device)
        self.loss = objective.loss if mode is None else torch.compile(objective.loss, mode=mode)
        self.parameters = [p for p in objective.student.parameters() if p.requires_grad]
        self.clip_norm = problem["optimizer"].get("clip_norm")
        self.optimizer = adamw(objective.student, problem["optimizer"], self.values)

    def __call__(self, *views: Tensor) -> float:
        """Do one update, and return its loss."""
        context = torch.autocast(self.device, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with context:
            loss, statistics = self.loss(*views, *self.drawn())
        loss.backward()
        if self.clip_norm:
            clip_each([p.grad for p in self.parameters], self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.objective.teacher is not None:
            with torch.no_grad():
                averaged = list(self.objective.teacher.parameters()), list(self.objective.student.parameters())
                torch._foreach_lerp_(*averaged, 1.0 - self.values["momentum"])
                self.objective.after(statistics)
        return loss.item()

    def drawn(self) -> tuple[Tensor, ...]:
        """Return what the objective draws by chance."""
        drawn = self.objective.draw(self.device)
        return () if drawn is None else (drawn,)


def adamw(student: nn.Module, arguments: dict[str, Any], values: dict[str, float]) -> torch.optim.Optimizer:
    """Return AdamW, fused; biases and the factors of norms do not decay."""
    without, decayed = [], []
    for name, parameter in student.named_parameters():
        *_, module, leaf = ("", *name.split("."))
        if parameter.requires_grad:
            (without if leaf == "bias" or (leaf == "weight" and module.startswith("norm")) else decayed).append(
                parameter
            )
    groups = [{"params": decayed}, {"params": without, "weight_decay": 0.0}]
    betas = arguments.get("b1", 0.9), arguments.get("b2", 0.999)
    return torch.optim.AdamW(
        groups, lr=values["learning_rate"], betas=betas, weight_decay=values["weight_decay"], fused=True
    )


def clip_each(gradients: list[Tensor], most: float) -> None:
    """Scale each gradient to a norm of at most `most`."""
    norms = torch._foreach_norm(gradients)
    torch._foreach_mul_(gradients, [(most / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


def make(name: str, problem: dict[str, Any]) -> Any:
    """Return the objective of a problem in the version of a baseline."""
    known = {"dora": Released if name == "released" else DoRA, "dino": DINO, "mae": MAE, "simclr": SimCLR}
    return known[problem["objective"]](problem)


def batch_of(objective: Any, problem: dict[str, Any], device: str) -> list[Tensor]:
    """Return the views of the batch of noise as the objective takes them."""
    samples = [given.views(problem, sample) for sample in given.pixels(problem)]
    parts = [samples] if isinstance(samples[0], np.ndarray) else zip(*samples, strict=True)
    return [view.to(device) for view in objective.views(*(torch.from_numpy(np.stack(part)) for part in parts))]


def begin(name: str, problem: dict[str, Any], device: str) -> tuple[Callable[[], dict[str, Any]], dict[str, Any]]:
    """Do the first update; see `workers.serve`."""
    torch.manual_seed(0)
    objective = make(name, problem)
    update, views = Update(objective, problem, device, MODES[name]), batch_of(objective, problem, device)
    update(*views)
    first = workers.since_start()
    if MODES[name] is not None:
        update(*views)  # which may compile again
    hello = {"first_step_seconds": first, "versions": {"torch": torch.__version__}}
    hello |= {"peak_bytes": peak_bytes(device), "threads": torch.get_num_threads()}
    return lambda: {"loss": update(*views), "peak_bytes": peak_bytes(device)}, hello


def begin_peak(problem: dict[str, Any], device: str) -> tuple[Callable[[], dict[str, Any]], dict[str, Any]]:
    """Measure the peak of matrix products in the dtype of the model, each time anew; see `workers.serve`."""
    dtype, products, operations = getattr(torch, problem["dtype"]), [], []

    def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    for m, k, n in given.products(problem, 8192 if device == "cuda" else 2048):
        a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((m, k), (k, n)))
        out = torch.empty((m, n), dtype=dtype, device=device)
        products.append(lambda a=a, b=b, out=out: multiply(a, b, out))
        operations.append(2.0 * m * k * n)
    return lambda: {"flops_per_second": workers.best_rate(products, operations)}, {}


def peak_bytes(device: str) -> int:
    """Return the most bytes that were held at once."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else workers.resident_bytes()


if __name__ == "__main__":
    kind, told, where = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX does
    workers.serve(lambda: begin_peak(told, where) if kind == "peak" else begin(kind, told, where))
