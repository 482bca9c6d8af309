"""DoRA: discover and track objects in a clip, and distil them (Venkataramanan et al., ICLR 2024, arXiv 2310.08584)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Integer

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.pure import Params, Pure
from ssljax.objectives.base import Encoder, LossOutput, PyTree, Schedule, check_momentum, check_temperature
from ssljax.objectives.chunks import mean_over_chunks
from ssljax.objectives.dino import (
    distillation_metrics,
    init_student_and_teacher,
    student_and_teacher,
    student_entropy,
    update_teacher_and_center,
)
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.losses import soft_cross_entropy, teacher_probabilities
from ssljax.ops.tracker import discover, highest, object_masks, object_prototypes, of_heads, track

MASKS = ("tracked", "attention", "random", "none")


@dataclasses.dataclass(frozen=True)
class DoRA:
    """The student sees each frame through the mask of one tracked object, and local crops; it predicts the teacher.

    Attributes:
        encoder: A ViT.
        head: A DINOHead.
        views: `views(frames uint8 [t, s, s, 3], key) -> (global [t, g, g, 3], locals [t, l, c, c, 3])`, normalised.
        frames: t, frames in a clip.
        size: Side of the uint8 frames in a batch, pixels.
        momentum: Of the teacher's moving average, as a function of the step.
        teacher_temperature: As a function of the step.
        objects: k, objects per clip; at most the encoder's heads.
        sinkhorn: Whether prototypes are refined; without, P is tracked as it is.
        epsilon: Of Sinkhorn-Knopp.
        iterations: Of Sinkhorn-Knopp; the released code does 30.
        masks: "tracked"; "attention", the first frame's CLS attention for every frame; "random", uniform noise for a
            map; "none", the whole frame.
        threshold: See `object_masks`.
        tracker_layer: The teacher's block whose attention, queries and keys are used; -1 is the last.
        heads_per: "clip" or "batch": how often the k heads are drawn.
        mask_mode: "zero", the paper's: patches outside an object's mask are blank; "drop": the student gets only the
            patches of each map's highest scores, always as many, and no blank ones.
        kept_share: Of the patches, where the others are dropped.
        chunks: In so many parts, each of some frames of every clip, the student's losses and gradients are made, so
            that it needs the memory of one part; a divisor of the frames. See `mean_over_chunks`.
    """

    encoder: Pure
    head: Pure
    views: Callable[..., tuple[Array, Array]]
    frames: int
    size: int
    momentum: Schedule
    teacher_temperature: Schedule
    student_temperature: float = 0.1
    center_momentum: float = 0.9
    objects: int = 3
    sinkhorn: bool = True
    epsilon: float = 0.05
    iterations: int = 30
    masks: str = "tracked"
    threshold: str = "frame"
    tracker_layer: int = -1
    heads_per: str = "clip"
    mask_mode: str = "zero"
    kept_share: float = 0.5
    chunks: int = 1

    def __post_init__(self) -> None:
        """Check the values that a trace would not.

        Raises:
            InputError: A number out of its range, more objects than attention heads, an unknown mask source, mode or
                drawing of heads, no Sinkhorn, or chunks that do not divide the frames.
        """
        check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
        check_temperature(student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature)
        if not self.epsilon > 0 or self.iterations < 1:
            raise InputError(
                f"epsilon is {self.epsilon} and iterations is {self.iterations}; give a number above 0 and at least 1."
            )
        heads = self.encoder.abstract.heads
        if not 1 <= self.objects <= heads:
            raise InputError(
                f"objects is {self.objects}, but each object starts from its own attention head and the encoder has "
                f"{heads}; give 1 to {heads}."
            )
        if self.masks not in MASKS:
            raise InputError(f"masks is {self.masks!r}; give one of {', '.join(MASKS)}.")
        if self.heads_per not in ("clip", "batch"):
            raise InputError(f'heads_per is {self.heads_per!r}; give "clip" or "batch".')
        if self.mask_mode not in ("zero", "drop"):
            raise InputError(f'mask_mode is {self.mask_mode!r}; give "zero" or "drop".')
        if self.mask_mode == "drop" and self.masks == "none":
            raise InputError('masks is "none", which scores no patches that could be dropped; give mask_mode="zero".')
        if not 0 < self.kept_share <= 1:
            raise InputError(f"kept_share is {self.kept_share}; give a number above 0, at most 1.")
        if self.chunks < 1 or self.frames % self.chunks:
            raise InputError(f"chunks is {self.chunks}; give a divisor of the {self.frames} frames.")

    @property
    def accumulates_exactly(self) -> bool:
        """False where a clip's masks depend on the other clips of its micro-batch."""
        return self.threshold != "batch"

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`."""
        frames = (batch_size, self.frames, self.size, self.size, 3)
        return {
            "frames": jax.ShapeDtypeStruct(frames, jnp.uint8),
            "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        }

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        return init_student_and_teacher(self.encoder, self.head, key)

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`; equations 7 to 9 of the paper."""
        large, small, drop_keys = self._views(batch, key)
        cls, masks = self.teach(state["teacher"]["encoder"], large, batch["position"], key)
        bottleneck = self.head(state["teacher"]["head"], cls, method="project")
        logits = self.head(state["teacher"]["head"], bottleneck, method="logits")
        targets = teacher_probabilities(logits, state["center"], temperature=self.teacher_temperature(step))

        frames = (large, masks, small, drop_keys, targets)
        factors = self.head(params["head"], method="factors")  # once, not once a chunk
        loss, metrics = mean_over_chunks(self._loss_of_frames, (params, factors), frames, count=self.chunks)
        metrics |= distillation_metrics(targets, loss, state["center"]) | {"mask_share": jnp.mean(masks)}
        return LossOutput(loss, jnp.mean(bottleneck.astype(jnp.float32), axis=(0, 1)), metrics)

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`."""
        return update_teacher_and_center(
            self.head, params, state, statistics, center_momentum=self.center_momentum, momentum=self.momentum(step)
        )

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the teacher, which the paper evaluates, and the student."""
        return student_and_teacher({"encoder": self.encoder, "head": self.head}, params, state["teacher"])

    def _loss_of_frames(self, trained: tuple[Params, Array], frames: PyTree) -> tuple[Array, dict[str, Array]]:
        """Return the loss of some frames of every clip and what is logged of the student."""
        params, factors = trained
        large, masks, small, drop_keys, targets = frames
        logits = self.head(params["head"], self.study(params["encoder"], large, masks, small, drop_keys), factors)
        losses = soft_cross_entropy(logits, targets[:, :, None], temperature=self.student_temperature)
        object_loss = jnp.mean(losses[:, :, : self.objects])
        local_loss = jnp.mean(losses[:, :, self.objects :]) if small.shape[2] else object_loss
        metrics = {
            "object_loss": object_loss,
            "local_loss": local_loss,
            "student_entropy": student_entropy(logits, temperature=self.student_temperature),
        }
        return (object_loss + local_loss) / 2, metrics

    @jax.named_scope("teacher")
    def teach(
        self, teacher: Params, large: Float[Array, "b t g g 3"], position: Integer[Array, " b"], key: jax.Array
    ) -> tuple[Float[Array, "b t d"], Bool[Array, "b t k n"]]:
        """Return the teacher's CLS token of every frame and the objects' masks; no gradient."""
        b, t = large.shape[:2]
        out = self.encoder(teacher, _merge(large), probe=self.tracker_layer)
        cls = shard_batch(out.cls.reshape(b, t, -1))
        n = out.patches.shape[1]
        if self.masks == "none":
            return jax.lax.stop_gradient((cls, jnp.ones((b, t, self.objects, n), bool)))

        def of_clips(x: Array) -> Array:
            return shard_batch(einops.rearrange(x, "(b t) ... -> b t ...", b=b))

        attention, heads = of_clips(out.probe.cls_attention)[:, 0], self._heads(key, position)
        if self.masks == "tracked":
            queries, patches = of_clips(out.probe.queries)[:, 0], of_clips(out.patches)[:, 0]
            maps = track(self._prototypes(attention, queries, patches, heads), of_clips(out.probe.keys))
        elif self.masks == "attention":
            maps = jnp.broadcast_to(of_heads(attention, heads)[:, None], (b, t, self.objects, n))
        else:
            keys = rng.per_sample(rng.named(key, "masks"), position)
            maps = jax.vmap(lambda k: jax.random.uniform(k, (t, self.objects, n)))(keys)
        maps = maps.astype(jnp.float32)
        if self.mask_mode == "drop":
            return jax.lax.stop_gradient((cls, highest(maps, self._kept(n))))
        return jax.lax.stop_gradient((cls, object_masks(maps, threshold=self.threshold)))

    @jax.named_scope("student")
    def study(
        self,
        student: Params,
        large: Float[Array, "b t g g 3"],
        masks: Bool[Array, "b t k n"],
        small: Float[Array, "b t l s s 3"],
        drop_keys: jax.Array,
    ) -> Float[Array, "b t v d"]:
        """Return the student's CLS token of each masked frame, then of each local crop: v = k + l.

        The mask is made of whole patches, so each frame is embedded once: W (mask * x) = mask * W x, and the bias comes
        after. No masked image is ever made.
        """
        b, t, k, n = masks.shape
        embedded = self.encoder(student, _merge(large), method="project").reshape(b, t, 1, n, -1)
        if self.mask_mode == "drop":
            # The places of what is kept, first to last: the same number in every mask.
            keep = jnp.argsort(~masks, axis=-1, stable=True)[..., : self._kept(n)]
            embedded = jnp.broadcast_to(embedded, (b, t, k, n, embedded.shape[-1]))
            keywords: dict[str, Any] = {"keep": _merge(keep, 3)}
        else:
            embedded, keywords = embedded * masks[..., None], {}
        grid = (large.shape[2] // self.encoder.abstract.patch_size,) * 2
        keywords |= {"keys": _merge(drop_keys[:, :, :k], 3), "features_only": True}
        cls = self.encoder(student, _merge(embedded, 3), grid, method="encode", **keywords).cls
        views = [shard_batch(cls.reshape(b, t, k, -1))]
        if small.shape[2]:
            keywords = {"keys": _merge(drop_keys[:, :, k:], 3), "features_only": True}
            cls = self.encoder(student, _merge(small, 3), **keywords).cls
            views.append(shard_batch(cls.reshape(b, t, small.shape[2], -1)))
        return jnp.concatenate(views, axis=2)

    def _kept(self, patches: int) -> int:
        return max(1, round(patches * self.kept_share))

    def _views(self, batch: PyTree, key: jax.Array) -> tuple[Array, Array, jax.Array]:
        keys = rng.per_sample(rng.named(key, "views"), batch["position"])
        large, small = jax.vmap(self.views)(batch["frames"], keys)
        drop_keys = rng.per_sample(rng.named(key, "drop_path"), batch["position"])
        count = (self.frames, self.objects + small.shape[2])
        return large, small, jax.vmap(lambda k: jax.random.split(k, count))(drop_keys)

    def _heads(self, key: jax.Array, position: Integer[Array, " b"]) -> Int[Array, "b k"]:
        key = rng.named(key, "heads")
        keys = rng.per_sample(key, position if self.heads_per == "clip" else jnp.zeros_like(position))
        return jax.vmap(lambda k: jax.random.permutation(k, self.encoder.abstract.heads)[: self.objects])(keys)

    def _prototypes(self, attention: Array, queries: Array, patches: Array, heads: Array) -> Float[Array, "b k d"]:
        if self.sinkhorn:
            return discover(attention, queries, patches, heads, epsilon=self.epsilon, iterations=self.iterations)
        return object_prototypes(attention, queries, heads)


def _merge(x: Array, axes: int = 2) -> Array:
    """Merge the first axes into one; the batch stays the major, and so the sharded, part."""
    return shard_batch(x.reshape(-1, *x.shape[axes:]))
