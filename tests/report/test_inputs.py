"""Images and frames are found, and are those that were asked for."""

import numpy as np
import pytest
from pictures import make_folder, smooth
from PIL import Image
from videos import make_video, number_of

from data_prep.images import main as prepare_images
from data_prep.prepare import Settings, prepare
from ssljax import configuration
from ssljax.data.imagefile import read_image
from ssljax.errors import InputError
from ssljax.evaluate.tracking import fit_frames
from ssljax.report.inputs import covered, own_inputs, read_inputs, spread


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A video of 4 s, the same prepared, and a prepared set of images."""
    folder = tmp_path_factory.mktemp("places")
    prepare(make_video(folder / "street.mp4"), folder / "street", Settings(5))
    raw = make_folder(folder / "raw", {"red": 3, "green": 3}, side=24)
    assert prepare_images([str(raw), "--output", str(folder / "flowers")]) == 0
    return folder


def test_spread_is_even_and_has_both_ends():
    assert spread(11, 3).tolist() == [0, 5, 10]
    assert spread(2, 5).tolist() == [0, 1]


def test_images_are_upright_and_on_white(tmp_path):
    image = Image.fromarray(smooth(0, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(np.asarray(image), -1))
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), np.full((4, 4, 3), 255))


def test_files_and_folders(places, tmp_path):
    files = [places / "raw" / "red" / f"{i:03d}.png" for i in range(3)]
    assert read_inputs(files, count=2).names == ["000", "002"]
    assert read_inputs([files[1]], count=2).names == ["001"]
    both = [places / "raw" / name / "000.png" for name in ("red", "green")]
    assert read_inputs(both, count=2).names == ["red/000", "green/000"]
    folder = read_inputs([places / "raw" / "red"], count=3)
    assert folder.names == ["000", "001", "002"]
    np.testing.assert_array_equal(folder.images[2], read_image(files[2]))
    assert read_inputs([places / "raw"], count=6).names == [f"{c}/{i:03d}" for c in ("green", "red") for i in range(3)]
    prepared = read_inputs([places / "flowers"], count=2)
    assert prepared.names == ["green", "red"] and prepared.times is None


@pytest.mark.parametrize(
    ("place", "seconds", "expected"),
    [("street.mp4", (1.0, 2.0), [25, 37, 49]), ("street", (1.0, 2.0), [25, 35, 45]), ("street.mp4", None, [0, 50, 99])],
)
def test_frames_of_a_part(places, place, seconds, expected):
    found = read_inputs([places / place], count=3, seconds=seconds)
    assert [number_of(frame) for frame in found.images] == expected
    assert found.times == pytest.approx([number / 25 for number in expected])
    assert found.names[-1] == f"{expected[-1] / 25:.1f} s"


def test_a_runs_own_data_are_what_it_left_out(places):
    data = [f"--config.data.video={places / 'street'}", "--config.data.seconds=(0.0,-2.0)"]
    config = configuration.load("configs/dora.py:smoke", data)
    found = own_inputs(config, count=3)
    assert found.times is not None and found.times[0] == 2.0
    assert found.times == read_inputs([places / "street"], count=3, config=config).times
    config = configuration.load("configs/dino.py:cifar10", [f"--config.data.data={places / 'flowers'}"])
    assert own_inputs(config, count=4).names == ["green", "green", "red", "red"]


@pytest.mark.parametrize(
    ("place", "seconds", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("nowhere.png", None, "cannot be read as an image"),
        ("text.png", None, "cannot be read as an image"),
        ("text.mp4", None, "not a video"),
        ("raw/red", (0.0, 1.0), "a part of a video"),
        ("street.mp4", (7.0, 8.0), "no frames in seconds 7 to 8"),
        ("raw", (0.0, 1.0), "a part of a video"),
        ("empty", None, "holds no prepared video"),
    ],
)
def test_what_cannot_be_read_is_told(places, place, seconds, message):
    for name in ("text.png", "text.mp4"):
        (places / name).write_text("no picture")
    (places / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=message):
        read_inputs([places / place], count=3, seconds=seconds)


@pytest.mark.parametrize("shape", [(48, 85), (90, 47), (64, 64)])
def test_covered_is_what_the_encoder_sees(shape):
    image = smooth(0, *shape)
    fitted = fit_frames(image[None], size=32, patch_size=8)[0]
    part = covered(image, size=32, patch_size=8)
    again = np.asarray(Image.fromarray(part).resize(fitted.shape[1::-1], Image.Resampling.BILINEAR), int)
    assert np.abs(again - fitted).mean() < 4
