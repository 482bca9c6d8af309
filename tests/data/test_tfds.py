"""A data set that TensorFlow Datasets wrote, read as it stands."""

import io
import pickle

import numpy as np
import pytest
from pictures import encode, smooth

from ssljax.data.images import Labelled
from ssljax.data.loader import Dataset
from ssljax.data.tfds import TFDS, TFDSSource
from ssljax.errors import InputError

COUNT = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        code_path, pkg_dir_path = None, folder  # where it would look for its documentation
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(COUNT):
                yield i, {"image": io.BytesIO(encode(smooth(i), "PNG")), "label": i % 2}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_every_image_comes_once(folder):
    data = TFDS(dataset="tiny", data_dir=folder, size=64, scale=(1.0, 1.0), ratio=(64 / 48, 64 / 48))
    assert isinstance(data, Dataset)
    again = pickle.loads(pickle.dumps(data))
    seen = set()
    for position in range(COUNT):
        image = data[position]["image"]
        np.testing.assert_array_equal(image, again[position]["image"])
        differences = [np.abs(image[::4, ::4].mean((0, 1)) - smooth(i)[::3, ::4].mean((0, 1))).max() for i in range(10)]
        seen.add(int(np.argmin(differences)))
    assert seen == set(range(COUNT))
    assert data.describe(0)["data"] == "tiny/1.0.0 (train)"
    part = TFDS(dataset="tiny", split="train[:50%]", data_dir=folder, size=8)
    assert data.checksum == again.checksum != part.checksum


def test_labels(folder):
    source = TFDSSource("tiny", "train", folder)
    assert source.classes == ("a", "b")
    ((images, labels),) = Labelled(source, size=32)
    assert images.shape == (COUNT, 32, 32, 3)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dataset="huge"), "TFDS has prepared no huge in .*: run `tfds build huge --file_format=array_record`"),
        (dict(split="test"), "tiny has no images in split 'test': give one of train"),
        (dict(split="train[:0]"), "tiny has no images in split 'train"),
    ],
)
def test_what_is_not_there_is_told(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        TFDS(**dict(dataset="tiny", data_dir=folder, size=8) | arguments)
