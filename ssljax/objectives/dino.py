"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, arXiv 2104.14294)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssljax.mesh import shard_batch
from ssljax.models.pure import Params, Pure, combine
from ssljax.objectives.base import (
    Encoder,
    LossOutput,
    PyTree,
    Schedule,
    check_momentum,
    check_norm_momentum,
    check_temperature,
    exponential_moving_average,
)
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.losses import dino_cross_entropy, entropy, teacher_probabilities, update_center


def init_student_and_teacher(encoder: Pure, head: Pure, key: jax.Array) -> tuple[Params, PyTree]:
    """Return the student's parameters and {"teacher": a copy of them, "center": zeros [prototypes]}."""
    params = {"encoder": encoder.init(rng.named(key, "encoder")), "head": head.init(rng.named(key, "head"))}
    teacher = jax.tree.map(jnp.copy, params)
    return params, {"teacher": teacher, "center": jnp.zeros(head.abstract.prototypes)}


def update_teacher_and_center(
    head: Pure,
    params: Params,
    state: PyTree,
    mean_bottleneck: Float[Array, " z"],
    *,
    center_momentum: float,
    momentum: Any,
) -> PyTree:
    """Return the state after one update: first the centre, of the teacher that made the targets, then the teacher.

    The mean of the teacher's logits is the last layer of the mean bottleneck, the layer being linear: `mean_bottleneck`
    is all that devices and micro-batches exchange.
    """
    batch = head(state["teacher"]["head"], mean_bottleneck, method="logits").astype(jnp.float32)
    return {
        "teacher": exponential_moving_average(state["teacher"], params, momentum),
        "center": update_center(state["center"], batch, momentum=center_momentum),
    }


def student_entropy(logits: Float[Array, "*s c"], *, temperature: float) -> Float[Array, ""]:
    """Return the mean entropy of the student's predictions in nats, for the log."""
    return jax.lax.stop_gradient(jnp.mean(entropy(jax.nn.softmax(logits.astype(jnp.float32) / temperature, axis=-1))))


def distillation_metrics(
    targets: Float[Array, "*b c"], cross_entropy: Float[Array, ""], center: Array
) -> dict[str, Array]:
    """Return what shows whether a teacher still teaches.

    `teacher_entropy` in nats (log(prototypes) is uniform, 0 is one-hot); `kl` between teacher and student views;
    `center_norm`; `teacher_information`, the share in [0, 1] of the largest possible mutual information
    between sample and prototype that the targets of this batch carry: 0 means that every sample gets the same target,
    which is what collapse of either kind looks like.
    """
    c = targets.shape[-1]
    flat = targets.reshape(-1, c)
    teacher_entropy = jnp.mean(entropy(flat))
    information = entropy(jnp.mean(flat, axis=0)) - teacher_entropy
    metrics = {
        "teacher_entropy": teacher_entropy,
        "kl": cross_entropy - teacher_entropy,
        "center_norm": jnp.linalg.norm(center),
        "teacher_information": information / math.log(max(2, min(c, flat.shape[0]))),
    }
    return jax.lax.stop_gradient(metrics)


@dataclasses.dataclass(frozen=True)
class DINO:
    """Student sees all crops of an image, teacher the two global ones; the student predicts the teacher.

    Batch norms of the encoder, where it has any, see the global and the local crops as two batches; the teacher's own
    running statistics are kept, as the released code keeps them.

    Attributes:
        encoder: Any whose output has `features` and whose call takes `keys` and `features_only`: a ViT, a ResNet.
        head: A DINOHead.
        views: `views(image uint8 [s, s, 3], key) -> (globals [2, g, g, 3], locals [l, s, s, 3])`, normalised.
        size: Side of the uint8 images in a batch, pixels.
        momentum: Of the teacher's moving average.
        teacher_temperature: As a function of the step (a warm-up).
        student_temperature: Of the student's probabilities.
        center_momentum: Of the centre's moving average.
        norm_momentum: Of the running statistics of the teacher's batch norms, which evaluations use.
    """

    encoder: Pure
    head: Pure
    views: Callable[..., tuple[Array, Array]]
    size: int
    momentum: Schedule
    teacher_temperature: Schedule
    student_temperature: float = 0.1
    center_momentum: float = 0.9
    norm_momentum: float = 0.9

    def __post_init__(self) -> None:
        """Raise InputError where a momentum or a temperature is none."""
        check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
        check_norm_momentum(self.norm_momentum)
        check_temperature(student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature)

    @property
    def accumulates_exactly(self) -> bool:
        """See `Objective`: batch norms see one micro-batch at a time."""
        return not jax.tree.leaves(jax.eval_shape(self.encoder.init_statistics))

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`."""
        return {
            "image": jax.ShapeDtypeStruct((batch_size, self.size, self.size, 3), jnp.uint8),
            "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        }

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        params, state = init_student_and_teacher(self.encoder, self.head, key)
        return params, state | {"statistics": self.encoder.init_statistics()}

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`; equation 3 of the paper."""
        keys = rng.per_sample(rng.named(key, "views"), batch["position"])
        large, small = jax.vmap(self.views)(batch["image"], keys)
        teacher = state["teacher"]

        b, g = large.shape[:2]
        output, statistics = self.encoder.train(teacher["encoder"], merge(large), features_only=True)
        bottleneck = self.head(teacher["head"], output.features, method="project")
        teacher_logits = split(self.head(teacher["head"], bottleneck, method="logits"), b)
        teacher_logits = jax.lax.stop_gradient(teacher_logits)

        drop_keys = rng.per_sample(rng.named(key, "drop_path"), batch["position"])
        drop_keys = jax.vmap(lambda k: jax.random.split(k, g + small.shape[1]))(drop_keys)
        student = [
            self.encoder.train(params["encoder"], merge(views), keys=merge(some), features_only=True)[
                0
            ].features.reshape(b, views.shape[1], -1)
            for views, some in ((large, drop_keys[:, :g]), (small, drop_keys[:, g:]))
            if views.shape[1]
        ]
        student_logits = self.head(params["head"], jnp.concatenate(student, axis=1))

        temperature = self.teacher_temperature(step)
        loss = dino_cross_entropy(
            jnp.swapaxes(student_logits, 0, 1),
            jnp.swapaxes(teacher_logits, 0, 1),
            state["center"],
            student_temperature=self.student_temperature,
            teacher_temperature=temperature,
        )
        targets = teacher_probabilities(teacher_logits, state["center"], temperature=temperature)
        metrics = distillation_metrics(targets, loss, state["center"])
        metrics["student_entropy"] = student_entropy(student_logits, temperature=self.student_temperature)
        mean_bottleneck = jnp.mean(bottleneck.astype(jnp.float32), axis=0)
        return LossOutput(loss, {"bottleneck": mean_bottleneck, "norm": statistics}, metrics)

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`; equation 4 for the centre."""
        new = update_teacher_and_center(
            self.head,
            params,
            state,
            statistics["bottleneck"],
            center_momentum=self.center_momentum,
            momentum=self.momentum(step),
        )
        norm = exponential_moving_average(state["statistics"], statistics["norm"], self.norm_momentum)
        return new | {"statistics": norm}

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the teacher, which the paper evaluates, and the student."""
        models = {"encoder": self.encoder, "head": self.head}
        return student_and_teacher(models, params, state["teacher"], state["statistics"])


def student_and_teacher(
    models: Mapping[str, Pure], student: Params, teacher: Params, statistics: PyTree = MappingProxyType({})
) -> dict[str, Encoder]:
    """Return both copies of an encoder with their heads, "image" being the teacher's, as `Objective.encoders` does.

    Args:
        models: By role, "encoder" among them.
        student: Parameters by role.
        teacher: Parameters by role.
        statistics: Those of the teacher's batch norms; the student has none of its own, being never evaluated.
    """

    def encoder(params: Params, statistics: PyTree) -> Encoder:
        heads = {role: (model, params[role]) for role, model in models.items() if role != "encoder"}
        return Encoder(models["encoder"], combine(params["encoder"], dict(statistics)), heads)

    image = encoder(teacher, statistics)
    return {"image": image, "teacher": image, "student": encoder(student, {})}


def merge(x: Array) -> Array:
    """[b, v, ...] -> [b * v, ...]; the batch stays the major, and so the sharded, part."""
    return shard_batch(x.reshape(-1, *x.shape[2:]))


def split(x: Array, b: int) -> Array:
    """[b * v, ...] -> [b, v, ...], the inverse."""
    return shard_batch(einops.rearrange(x, "(b v) ... -> b v ...", b=b))
