"""Propagation against the formula in NumPy and numbers of the released code."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax.evaluate.propagation import first_frame, next_frame, one_hot, propagate, to_mask

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "davis.npz")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def formula(references, labels, target, *, top_k, neighbourhood, temperature=0.1):
    """One target patch after the other in float64; what is as near as the last of the nearest counts as well."""
    count, height, width, _ = references.shape
    found = np.zeros((height, width, labels.shape[-1]))
    for i in range(height):
        for j in range(width):
            candidates = [
                (float(target[i, j] @ references[r, y, x]), labels[r, y, x])
                for r in range(count)
                for y in range(max(i - neighbourhood, 0), min(i + neighbourhood + 1, height))
                for x in range(max(j - neighbourhood, 0), min(j + neighbourhood + 1, width))
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            last = candidates[min(top_k, len(candidates)) - 1][0]
            near = [(np.exp(cosine / temperature), label) for cosine, label in candidates if cosine >= last]
            found[i, j] = sum(w * label for w, label in near) / sum(w for w, _ in near)
    return found


def case(seed, shape, references=3, classes=3):
    random = np.random.default_rng(seed)
    features = unit(random.normal(size=(references + 1, *shape, 6))).astype(np.float32)
    labels = random.dirichlet(np.ones(classes), (references, *shape)).astype(np.float32)
    return features[:-1], labels, features[-1]


@pytest.mark.parametrize(
    ("shape", "top_k", "neighbourhood"),
    [((9, 11), 5, 3), ((9, 11), 1, 2), ((6, 13), 40, 20), ((12, 5), 7, 1), ((3, 4), 100, 1)],
)
def test_equals_the_formula(shape, top_k, neighbourhood):
    references, labels, target = case(0, shape)
    found = propagate(references, labels, target, np.ones(3, bool), top_k=top_k, neighbourhood=neighbourhood)
    expected = formula(
        *(x.astype(np.float64) for x in (references, labels, target)), top_k=top_k, neighbourhood=neighbourhood
    )
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_equals_the_released_code():
    found = propagate(
        unit(GOLDEN["references"]),
        GOLDEN["labels"],
        unit(GOLDEN["target"]),
        np.ones(3, bool),
        top_k=5,
        neighbourhood=3,
    )
    np.testing.assert_allclose(found, GOLDEN["propagated"], atol=2e-6)


def test_absent_references_do_not_count():
    references, labels, target = case(1, (7, 8))
    found = propagate(references, labels, target, np.array([True, False, True]), neighbourhood=4)
    fewer = propagate(references[::2], labels[::2], target, np.ones(2, bool), neighbourhood=4)
    np.testing.assert_allclose(found, fewer, atol=1e-6)


def test_equally_near_patches_all_count():
    """A frame of one colour: every patch near enough is as near as the next, whatever top_k says."""
    same = np.full((1, 5, 6, 4), 0.5, np.float32)
    labels = np.random.default_rng(2).dirichlet(np.ones(2), (1, 5, 6)).astype(np.float32)
    found = propagate(same, labels, same[0], np.ones(1, bool), top_k=3, neighbourhood=10)
    np.testing.assert_allclose(found, np.broadcast_to(labels.mean((0, 1, 2)), found.shape), atol=1e-6)


def test_the_queue_holds_the_first_and_the_last_frames():
    queue, frames = 2, 6
    features = np.random.default_rng(3).normal(size=(frames, 7, 8, 5)).astype(np.float32)
    labels = [one_hot(np.random.default_rng(4).integers(0, 3, (7, 8), np.uint8), 3)]
    references = first_frame(features[0], labels[0], queue=queue)
    for t in range(1, frames):
        references, found = next_frame(references, features[t], top_k=4, neighbourhood=3)
        used = sorted({0, *range(max(t - queue, 0), t)})
        context = unit(features[used].astype(np.float64))
        expected = formula(
            context, np.stack([labels[i] for i in used]), unit(features[t].astype(np.float64)), top_k=4, neighbourhood=3
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        labels.append(np.asarray(found))


def test_masks_equal_torch_upsampling():
    """Labels on the pixels of a frame: bilinear without corners, as SciPy's zoom in grid mode has it."""
    from scipy.ndimage import zoom

    labels = np.random.default_rng(5).dirichlet(np.ones(3), (6, 9)).astype(np.float32)
    pixels = np.stack([zoom(labels[..., c], 16, order=1, mode="nearest", grid_mode=True) for c in range(3)], -1)
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    expected = ((pixels - low) / (high - low)).argmax(-1)
    assert (np.asarray(to_mask(labels, size=(96, 144))) != expected).mean() < 1e-4  # where two classes are equal


def test_a_lost_object_leaves_background():
    labels = one_hot(np.zeros((4, 5), np.uint8), 3)
    assert not np.asarray(to_mask(labels, size=(64, 80))).any()


def test_memory_grows_with_the_rows_of_a_neighbourhood():
    """At 1080p and patches of 8 pixels every patch with every other would be 34 GB."""
    h, w, d, r = 135, 240, 384, 8
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((r, h, w, d), (r, h, w, 3), (h, w, d))]
    compiled = jax.jit(propagate).lower(*shapes, jax.ShapeDtypeStruct((r,), bool)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.6e9
