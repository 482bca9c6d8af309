"""Crops, blurs and the compositions of views against Pillow, SciPy and torchvision's definition of the sampler."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from ssljax.errors import InputError
from ssljax.ops import augment

BOXES = [(0, 0, 40, 50), (3, 7, 30, 21), (11, 0, 9, 50), (5, 40, 8, 10)]
PILLOW = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
CLIP = {"global_size": 32, "local_size": 16, "locals": 2}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def smooth(image):
    """Values within 0.4 to 0.6, so that no interpolation leaves [0, 1] and nothing is clipped."""
    return 0.4 + 0.2 * image


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(1).integers(0, 256, (3, 4, 48, 48, 3), dtype=np.uint8)


VIEWS = jax.jit(augment.clip_views, static_argnames=("global_size", "local_size", "locals", "global_scale"))


def box_array(box):
    return jnp.asarray(box, jnp.int32)


def test_normalise_subtracts_imagenets_mean_and_divides_by_its_standard_deviation(image):
    expected = (image.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(augment.normalise(jnp.asarray(image)), expected, atol=1e-6)
    np.testing.assert_allclose(augment.normalise(jnp.asarray(image[None, None]))[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(16, 12), (48, 64)])
def test_antialiased_crop_is_pillows_crop_then_resize(smooth, box, method, size):
    top, left, height, width = box
    planes = [
        Image.fromarray(smooth[..., channel])
        .crop((left, top, left + width, top + height))
        .resize((size[1], size[0]), PILLOW[method])
        for channel in range(3)
    ]
    result = augment.resized_crop(jnp.asarray(smooth), box_array(box), size, method=method, antialias=True)
    np.testing.assert_allclose(result, np.stack([np.asarray(plane) for plane in planes], -1), atol=1e-5)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [(16, 12), (48, 64)])
def test_plain_bilinear_crop_is_scipys_interpolation(smooth, box, size):
    top, left, height, width = box
    rows = (np.arange(size[0]) + 0.5) * height / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * width / size[1] - 0.5
    window = smooth[top : top + height, left : left + width]
    grid = np.meshgrid(rows, columns, indexing="ij")
    planes = [scipy.ndimage.map_coordinates(window[..., c], grid, order=1, mode="nearest") for c in range(3)]
    result = augment.resized_crop(jnp.asarray(smooth), box_array(box), size, antialias=False)
    np.testing.assert_allclose(result, np.stack(planes, -1), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_crops_are_pytorchs_crop_then_interpolate(smooth, box, method, antialias):
    torch = pytest.importorskip("torch")
    top, left, height, width = box
    window = torch.from_numpy(smooth[top : top + height, left : left + width].copy()).permute(2, 0, 1)[None]
    mode = {"linear": "bilinear", "cubic": "bicubic"}[method]
    expected = torch.nn.functional.interpolate(window, (16, 12), mode=mode, antialias=antialias, align_corners=False)
    result = augment.resized_crop(jnp.asarray(smooth), box_array(box), (16, 12), method=method, antialias=antialias)
    np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_flip_mirrors_left_and_right_and_overshoot_is_clipped(image):
    arguments = {"size": (16, 12), "method": "cubic"}
    plain = augment.resized_crop(jnp.asarray(image), box_array(BOXES[1]), **arguments)
    flipped = augment.resized_crop(jnp.asarray(image), box_array(BOXES[1]), **arguments, flip=jnp.asarray(True))
    kept = augment.resized_crop(jnp.asarray(image), box_array(BOXES[1]), **arguments, flip=jnp.asarray(False))
    np.testing.assert_allclose(flipped, plain[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(kept, plain, atol=1e-6)
    checkers = jnp.asarray(np.indices((8, 8)).sum(0) // 2 % 2, jnp.float32)[..., None].repeat(3, -1)
    enlarged = augment.resized_crop(checkers, box_array((0, 0, 8, 8)), (32, 32), method="cubic")
    assert enlarged.min() == 0
    assert enlarged.max() == 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_scipys_gaussian_filter(image, sigma):
    expected = scipy.ndimage.gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="nearest", truncate=8.0)
    np.testing.assert_allclose(augment.gaussian_blur(jnp.asarray(image), jnp.float32(sigma)), expected, atol=2e-6)


def boxes(number, size, scale, **keywords):
    draw = jax.jit(jax.vmap(lambda draws: augment.crop_box(draws, size, scale=scale, **keywords)))
    return np.asarray(draw(jax.random.uniform(jax.random.key(3), (number, augment.CROP_DRAWS))))


def torchvision_boxes(number, size, scale, ratio=(3 / 4, 4 / 3)):
    """Draw as the documentation of torchvision's RandomResizedCrop says, try by try."""
    random, result = np.random.default_rng(4), []
    height, width = size
    while len(result) < number:
        for _ in range(10):
            area = height * width * random.uniform(*scale)
            aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                result.append((random.integers(0, height - h + 1), random.integers(0, width - w + 1), h, w))
                break
        else:
            w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
            result.append(((height - h) // 2, (width - w) // 2, h, w))
    return np.asarray(result)


@pytest.mark.parametrize(
    ("size", "scale"), [((300, 300), (0.4, 1.0)), ((300, 300), (0.05, 0.4)), ((60, 200), (0.2, 1.0))]
)
def test_crop_boxes_are_distributed_as_torchvisions(size, scale):
    number = 8000
    ours, theirs = boxes(number, size, scale), torchvision_boxes(number, size, scale)
    top, left, height, width = ours.T
    assert height.min() > 0
    assert width.min() > 0
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]
    for statistic in (
        lambda b: b[:, 2] * b[:, 3] / (size[0] * size[1]),
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = statistic(ours), statistic(theirs)
        points = np.unique(np.concatenate([a, b]))
        distance = np.abs(
            np.searchsorted(np.sort(a), points, "right") - np.searchsorted(np.sort(b), points, "right")
        ).max()
        # Two-sample Kolmogorov-Smirnov: 1.95 sqrt(2 / n) is passed by one draw in a thousand.
        assert distance / number < 1.95 * math.sqrt(2 / number)


@pytest.mark.parametrize(
    ("size", "expected"), [((20, 100), (0, 36, 20, 27)), ((100, 20), (36, 0, 27, 20)), ((30, 30), (0, 0, 30, 30))]
)
def test_a_box_that_never_fits_falls_back_to_the_largest_central_one(size, expected):
    np.testing.assert_array_equal(boxes(20, size, (5.0, 6.0)), np.tile(expected, (20, 1)))


def test_photometric_applies_each_step_with_its_probability(image):
    pixels = jnp.asarray(image)
    never = {"jitter_probability": 0.0, "grey_probability": 0.0, "blur_probability": 0.0}
    draws = jax.random.uniform(jax.random.key(5), (4000, augment.PHOTOMETRIC_DRAWS))
    np.testing.assert_array_equal(augment.photometric(pixels, draws[0], **never), pixels)

    @jax.jit
    @jax.vmap
    def changes(draws):
        def changed(**keywords):
            return jnp.any(augment.photometric(pixels[:8, :8], draws, **{**never, **keywords}) != pixels[:8, :8])

        return jnp.stack(
            [
                changed(jitter_probability=0.8),
                changed(grey_probability=0.2),
                changed(blur_probability=0.5),
                changed(solarise_probability=0.2),
            ]
        )

    shares = np.asarray(changes(draws)).mean(0)
    np.testing.assert_allclose(shares, [0.8, 0.2, 0.5, 0.2], atol=0.03)


def test_photometric_with_only_greyscale_has_three_equal_channels(image):
    grey = augment.photometric(
        jnp.asarray(image), jnp.full(13, 0.5), jitter_probability=0.0, grey_probability=1.0, blur_probability=0.0
    )
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_clip_views_are_the_same_one_by_one_and_under_vmap(clips):
    keys = jax.random.split(jax.random.key(6), len(clips))
    mapped = jax.jit(jax.vmap(lambda clip, key: augment.clip_views(clip, key, **CLIP)))(jnp.asarray(clips), keys)
    assert mapped[0].shape == (3, 4, 32, 32, 3)
    assert mapped[1].shape == (3, 4, 2, 16, 16, 3)
    assert mapped[0].dtype == mapped[1].dtype == jnp.float32
    for index in range(len(clips)):
        alone = VIEWS(jnp.asarray(clips[index]), keys[index], **CLIP)
        np.testing.assert_allclose(mapped[0][index], alone[0], atol=2e-5)
        np.testing.assert_allclose(mapped[1][index], alone[1], atol=2e-5)


def test_keys_alone_decide_the_views(clips):
    clip, (first, second) = jnp.asarray(clips[0]), jax.random.split(jax.random.key(7))
    for again, same in zip(VIEWS(clip, first, **CLIP), VIEWS(clip, first, **CLIP), strict=True):
        np.testing.assert_array_equal(again, same)
    for one, other in zip(VIEWS(clip, first, **CLIP), VIEWS(clip, second, **CLIP), strict=True):
        assert np.abs(one - other).mean() > 0.1


def test_global_box_is_the_clips_and_local_boxes_and_colours_are_each_frames_own():
    """A clip of one frame repeated: without photometrics its global views agree and its local views do not."""
    frame = np.random.default_rng(2).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    clip = jnp.asarray(np.repeat(frame, 4, 0))
    plain = {"jitter_probability": 0.0, "grey_probability": 0.0}
    blurless = {"global_blur_probability": 0.0, "local_blur_probability": 0.0}
    key = jax.random.key(8)
    whole, local = VIEWS(clip, key, **CLIP, **plain, **blurless)
    for index in range(1, 4):
        np.testing.assert_allclose(whole[index], whole[0], atol=1e-5)
        assert np.abs(local[index] - local[0]).mean() > 0.1
    assert np.abs(local[0, 0] - local[0, 1]).mean() > 0.1
    jittered = VIEWS(clip, key, **CLIP, jitter_probability=1.0, grey_probability=0.0)[0]
    assert np.abs(jittered[1] - jittered[0]).mean() > 0.01


def test_clip_views_without_photometrics_are_normalised_crops_of_the_canvas(clips):
    """With the whole canvas as the only crop, the global view is its resized or mirrored self."""
    clip = jnp.asarray(clips[0])
    still = {"jitter_probability": 0.0, "grey_probability": 0.0, "global_blur_probability": 0.0}
    whole = {"global_size": 48, "global_scale": (1.0, 1.0), "local_size": 16, "locals": 1}
    expected = augment.normalise(clip / jnp.float32(255))
    for flip in (0.0, 1.0):
        key = jax.random.key(9)
        # Area 1 fits only with ratio 1, which is never drawn: the fallback is the whole canvas.
        view = VIEWS(clip, key, **whole, **still, flip_probability=flip)[0]
        np.testing.assert_allclose(view, expected[:, :, ::-1] if flip else expected, atol=2e-5)


def test_image_views_follow_dinos_recipe():
    pixels = jnp.asarray(np.random.default_rng(3).integers(0, 256, (48, 56, 3), dtype=np.uint8))
    draw = jax.jit(lambda key: augment.image_views(pixels, key, global_size=32, local_size=16, locals=3))
    whole, local = draw(jax.random.key(10))
    assert whole.shape == (2, 32, 32, 3)
    assert local.shape == (3, 16, 16, 3)
    assert whole.dtype == local.dtype == jnp.float32
    np.testing.assert_array_equal(whole, draw(jax.random.key(10))[0])

    # Noise loses most of its variation between neighbours when blurred: view 0 always is, view 1 one time in ten.
    many = jax.jit(
        jax.vmap(
            lambda key: augment.image_views(
                pixels, key, global_size=32, local_size=16, locals=1, jitter_probability=0.0, grey_probability=0.0
            )[0]
        )
    )(jax.random.split(jax.random.key(11), 200))
    roughness = np.abs(np.diff(np.asarray(many), axis=3)).mean((2, 3, 4))
    assert np.median(roughness[:, 0]) < 0.5 * np.median(roughness[:, 1])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_view_of_the_whole_canvas_is_its_normalised_self_or_mirror(clips, flip):
    """Area 1 fits only with ratio 1, which is never drawn: the fallback is the whole canvas."""
    clip, key = jnp.asarray(clips[0]), jax.random.key(12)
    view = augment.crop_view(clip, key, size=48, scale=(1.0, 1.0), flip_probability=flip)
    expected = augment.normalise(clip / jnp.float32(255))
    np.testing.assert_allclose(view, expected[:, :, ::-1] if flip else expected, atol=2e-5)
    np.testing.assert_array_equal(
        augment.crop_view(clip[0], key, size=48, scale=(1.0, 1.0), flip_probability=flip), view[0]
    )


def test_crop_view_cuts_one_box_for_all_frames(clips):
    crop = jax.jit(lambda pixels, key: augment.crop_view(pixels, key, size=32))
    clip = jnp.asarray(np.repeat(clips[0][:1], 4, 0))
    first, second = jax.random.split(jax.random.key(13))
    view = crop(clip, first)
    assert view.shape == (4, 32, 32, 3)
    for index in range(1, 4):
        np.testing.assert_array_equal(view[index], view[0])
    assert np.abs(crop(clip, second) - view).mean() > 0.1
    with pytest.raises(InputError, match="views.scale"):
        augment.crop_view(clip, first, scale=(0.2, 1.5))
