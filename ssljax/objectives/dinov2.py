"""DINOv2: DINO with iBOT's masked patches, Sinkhorn-Knopp centring and KoLeo (Oquab et al. 2024, arXiv 2304.07193)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Integer

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.pure import Params, Pure
from ssljax.objectives.base import Encoder, LossOutput, PyTree, Schedule, check_momentum, check_temperature
from ssljax.objectives.dino import (
    distillation_metrics,
    init_student_and_teacher,
    merge,
    split,
    student_and_teacher,
    student_entropy,
    update_teacher_and_center,
)
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.losses import (
    Scalar,
    cross_view_entropy,
    entropy,
    koleo,
    soft_cross_entropy,
    teacher_probabilities,
    update_center,
)
from ssljax.ops.masking import mask_blocks
from ssljax.ops.sinkhorn import sinkhorn_knopp


class Views(NamedTuple):
    """What a batch's networks see.

    Attributes:
        large: The global views, normalised.
        small: The local views.
        hidden: The patches of the global views that the student does not see.
        places: Which of a sample's patches are predicted, counted through all its global views.
        counted: Which of these places are hidden indeed; the others fill up.
    """

    large: Float[Array, "b g s s 3"]
    small: Float[Array, "b l t t 3"]
    hidden: Bool[Array, "b g n"]
    places: Int[Array, "b m"]
    counted: Bool[Array, "b m"]


class Tokens(NamedTuple):
    """Tokens after a network's final norm: of CLS by view, and of the patches to predict."""

    cls: Float[Array, "b v d"]
    patches: Float[Array, "b m d"]


@dataclasses.dataclass(frozen=True)
class DINOv2:
    """The student predicts the teacher's CLS across views, as in DINO, and its patches where the student's are masked.

        loss = DINO(cls) + patch_weight * iBOT(patches) + koleo_weight * sum over global views of KoLeo(cls)

    Of each image one global view, drawn by chance, is masked: half of the views, as in the released code, and as many
    on every device. The patch loss is averaged over the patches of a view and then, again as released, over all global
    views, to which those without a mask contribute nothing; the metric `patch_loss` leaves them out.

    Attributes:
        encoder: A ViT with a mask token.
        head: A DINOHead, for CLS and, without `patch_head`, for patches.
        views: `views(image uint8 [s, s, 3], key) -> (globals [2, g, g, 3], locals [l, s, s, 3])`, normalised.
        size: Side of the uint8 images in a batch, pixels.
        momentum: Of the teacher's moving average.
        teacher_temperature: As a function of the step (a warm-up).
        patch_head: A DINOHead of the patches' own.
        centering: "sinkhorn" assigns the batch's CLS, and its masked patches, to the prototypes evenly (Caron et al.
            2020, arXiv 2006.09882); "mean" subtracts the running mean of the teacher's logits, as DINO and iBOT do.
        iterations: Of Sinkhorn-Knopp.
        mask_ratio: Smallest and largest share of a masked view's patches that is hidden; see `mask_blocks`.
        patch_weight: Of iBOT's loss (Zhou et al. 2022, arXiv 2111.07832, equation 3).
        koleo_weight: Of `koleo`, whose neighbours are sought in the whole batch.
    """

    encoder: Pure
    head: Pure
    views: Callable[..., tuple[Array, Array]]
    size: int
    momentum: Schedule
    teacher_temperature: Schedule
    patch_head: Pure | None = None
    student_temperature: float = 0.1
    center_momentum: float = 0.9
    centering: str = "sinkhorn"
    iterations: int = 3
    mask_ratio: Sequence[float] = (0.1, 0.5)
    patch_weight: float = 1.0
    koleo_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the values that a trace would not, or only later.

        Raises:
            InputError: A number out of its range, an unknown centring, or an encoder without a mask token.
        """
        check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
        check_temperature(student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature)
        for name, least in (("patch_weight", 0), ("koleo_weight", 0), ("iterations", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if self.centering not in ("sinkhorn", "mean"):
            raise InputError(f'centering is {self.centering!r}; give "sinkhorn" or "mean".')
        encoder = self.encoder.abstract
        if not encoder.mask_token:
            raise InputError("The encoder has no token for the patches that are masked; set its mask_token=True.")
        grid = encoder.grid(encoder.image_size, encoder.image_size)
        jax.eval_shape(lambda: mask_blocks(jax.random.split(jax.random.key(0), 1), grid, ratio=self.mask_ratio))

    @property
    def accumulates_exactly(self) -> bool:
        """False where a sample's targets or its nearest neighbour are found in its micro-batch."""
        return self.centering == "mean" and self.koleo_weight == 0

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`."""
        return {
            "image": jax.ShapeDtypeStruct((batch_size, self.size, self.size, 3), jnp.uint8),
            "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        }

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        params, state = init_student_and_teacher(self.encoder, self.head, key)
        state["patch_center"] = jnp.zeros_like(state["center"])
        if self.patch_head is not None:
            params["patch_head"] = self.patch_head.init(rng.named(key, "patch_head"))
            state["teacher"]["patch_head"] = jax.tree.map(jnp.copy, params["patch_head"])
            state["patch_center"] = jnp.zeros(self.patch_head.abstract.prototypes)
        return params, state

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`."""
        seen = self.draw(batch, key)
        g = seen.large.shape[1]
        teacher, temperature = state["teacher"], self.teacher_temperature(step)
        tokens = self.teach(teacher["encoder"], seen)
        bottleneck = self.head(teacher["head"], tokens.cls, method="project")
        targets = self.targets(self.head(teacher["head"], bottleneck, method="logits"), state["center"], temperature)
        patch_bottleneck = self._patch_head(teacher, tokens.patches, method="project")
        patch_targets = self.targets(
            self._patch_head(teacher, patch_bottleneck, method="logits"),
            state["patch_center"],
            temperature,
            seen.counted,
        )

        tokens = self.study(params["encoder"], seen, key, batch["position"])
        logits = self.head(params["head"], tokens.cls)
        cls_loss = cross_view_entropy(
            jnp.swapaxes(logits, 0, 1), jnp.swapaxes(targets, 0, 1), temperature=self.student_temperature
        )
        spread = jnp.stack([koleo(tokens.cls[:, view]) for view in range(g)])
        patch_logits = self._patch_head(params, tokens.patches)
        patch_loss = masked_patch_loss(patch_logits, patch_targets, seen.counted, temperature=self.student_temperature)
        loss = cls_loss + self.patch_weight * patch_loss / g + self.koleo_weight * jnp.sum(spread)

        metrics = distillation_metrics(targets, cls_loss, state["center"])
        metrics["student_entropy"] = student_entropy(logits, temperature=self.student_temperature)
        metrics |= {"cls_loss": cls_loss, "patch_loss": patch_loss, "koleo": jnp.mean(spread)}
        metrics |= _patch_metrics(patch_targets, seen.counted)
        statistics = {
            "cls": jnp.mean(bottleneck, axis=(0, 1)),
            "patches": jnp.mean(jnp.sum(patch_bottleneck * seen.counted[..., None], axis=1), axis=0),
            "count": jnp.mean(jnp.sum(seen.counted, axis=1, dtype=jnp.float32)),
        }
        return LossOutput(loss, jax.lax.stop_gradient(statistics), metrics)

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`: the teacher, and both centres, which Sinkhorn-Knopp does not use but logs."""
        patches = self._patch_head(state["teacher"], statistics["patches"] / statistics["count"], method="logits")
        new = update_teacher_and_center(
            self.head,
            params,
            state,
            statistics["cls"],
            center_momentum=self.center_momentum,
            momentum=self.momentum(step),
        )
        return new | {"patch_center": update_center(state["patch_center"], patches, momentum=self.center_momentum)}

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the teacher, which the paper evaluates, and the student."""
        models = {"encoder": self.encoder, "head": self.head}
        if self.patch_head is not None:
            models["patch_head"] = self.patch_head
        return student_and_teacher(models, params, state["teacher"])

    def draw(self, batch: PyTree, key: jax.Array) -> Views:
        """Return a batch's views and masks, which depend on the key and on each sample's position alone."""
        keys = rng.per_sample(rng.named(key, "views"), batch["position"])
        large, small = jax.vmap(self.views)(batch["image"], keys)
        g = large.shape[1]
        keys = rng.per_sample(rng.named(key, "masks"), batch["position"])
        blocks = mask_blocks(keys, self.encoder.abstract.grid(*large.shape[2:4]), ratio=self.mask_ratio)
        keys = rng.per_sample(rng.named(key, "masked_view"), batch["position"])
        view = jax.vmap(lambda k: jax.random.randint(k, (), 0, g))(keys)
        hidden = blocks.hidden[:, None] & (view[:, None] == jnp.arange(g)[None])[:, :, None]
        places = blocks.places + view[:, None] * blocks.hidden.shape[1]
        return Views(large, small, hidden, places, blocks.counted)

    @jax.named_scope("teacher")
    def teach(self, teacher: Params, seen: Views) -> Tokens:
        """Return the teacher's tokens of the whole global views; no gradient."""
        out = self.encoder(teacher, merge(seen.large))
        return jax.lax.stop_gradient(_tokens(out.cls, out.patches, seen))

    @jax.named_scope("student")
    def study(self, student: Params, seen: Views, key: jax.Array, position: Integer[Array, " b"]) -> Tokens:
        """Return the student's tokens: of the global views, one of them masked, then of the local ones."""
        g, small = seen.large.shape[1], seen.small.shape[1]
        keys = rng.per_sample(rng.named(key, "drop_path"), position)
        keys = jax.vmap(lambda k: jax.random.split(k, g + small))(keys)
        out = self.encoder(student, merge(seen.large), mask=merge(seen.hidden), keys=merge(keys[:, :g]))
        tokens = _tokens(out.cls, out.patches, seen)
        if not small:
            return tokens
        cls = self.encoder(student, merge(seen.small), keys=merge(keys[:, g:])).cls
        return tokens._replace(cls=jnp.concatenate([tokens.cls, split(cls, len(position))], axis=1))

    def targets(
        self,
        logits: Float[Array, "b m c"],
        center: Float[Array, " c"],
        temperature: Scalar,
        counted: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b m c"]:
        """Return the teacher's distributions over the prototypes, centred over the batch; no gradient.

        Args:
            logits: The teacher's, of m views or patches a sample.
            center: Their running mean.
            temperature: The teacher's.
            counted: Which of them there are; all by default.
        """
        if self.centering == "mean":
            return teacher_probabilities(logits, center, temperature=temperature)
        assigned = sinkhorn_knopp(
            merge(logits),
            epsilon=temperature,
            iterations=self.iterations,
            counted=None if counted is None else merge(counted),
        )
        return jax.lax.stop_gradient(split(assigned, len(logits)))

    def _patch_head(self, params: Params, *args: Array, method: str = "__call__") -> Array:
        if self.patch_head is None:
            return self.head(params["head"], *args, method=method)
        return self.patch_head(params["patch_head"], *args, method=method)


def masked_patch_loss(
    student_logits: Float[Array, "b m c"],
    targets: Float[Array, "b m c"],
    counted: Bool[Array, "b m"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Return the cross-entropy averaged over a sample's patches that count, then over samples (iBOT, equation 3)."""
    losses = soft_cross_entropy(student_logits, targets, temperature=temperature)
    return jnp.sum(losses * _shares(counted))


def _shares(counted: Bool[Array, "b m"]) -> Float[Array, "b m"]:
    """Return weights that sum to one: equal among samples, and among the patches that count of each."""
    return counted / (len(counted) * jnp.sum(counted, axis=1, keepdims=True, dtype=jnp.float32))


def _patch_metrics(targets: Float[Array, "b m c"], counted: Bool[Array, "b m"]) -> dict[str, Array]:
    """Return of the masked patches what `distillation_metrics` says of CLS, and their number a sample."""
    shares = _shares(counted)
    mean_entropy = jnp.sum(entropy(targets) * shares)
    information = entropy(jnp.einsum("bmc,bm->c", targets, shares)) - mean_entropy
    metrics = {
        "patch_entropy": mean_entropy,
        "patch_information": information / math.log(max(2, min(targets.shape[-1], counted.size))),
        "masked_patches": jnp.mean(jnp.sum(counted, axis=1, dtype=jnp.float32)),
    }
    return jax.lax.stop_gradient(metrics)


def _tokens(cls: Float[Array, "v d"], patches: Float[Array, "v n d"], seen: Views) -> Tokens:
    """Return the CLS tokens by sample, and the patches at the places to predict."""
    b = len(seen.large)
    patches = shard_batch(patches.reshape(b, -1, patches.shape[-1]))
    return Tokens(split(cls, b), jnp.take_along_axis(patches, seen.places[:, :, None], axis=1))
