"""Labelled images as classifiers are trained on them: shuffled anew each epoch, cut and mirrored at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssljax.data.damage import DamagedFrame
from ssljax.data.encoded import picture_size, resized_box
from ssljax.data.images import Labelled, undecodable
from ssljax.data.windows import Pair, crop_box

_RATIO = (3 / 4, 4 / 3)


def shuffled(count: int, *, batch_size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `steps` batches of numbers from 0 to `count` - 1, int64 [batch_size].

    Each number comes once an epoch, in a new order each; a batch goes on where the last one ended, across epochs.
    """
    left, epoch = np.zeros(0, np.int64), 0
    for _ in range(steps):
        while len(left) < batch_size:
            random = np.random.Generator(np.random.Philox(key=[seed % 2**64, epoch]))
            left, epoch = np.concatenate([left, random.permutation(count)]), epoch + 1
        yield left[:batch_size]
        left = left[batch_size:]


def training_batches(
    labelled: Labelled, *, rows: Sequence[int], batch_size: int, steps: int, seed: int, scale: Pair = (0.08, 1.0)
) -> Iterator[dict[str, np.ndarray]]:
    """Yield `steps` batches of {"input": uint8 [r, size, size, 3], "label": int32 [r]}, the rows of the global batch.

    Images are cut at random as torchvision's RandomResizedCrop and RandomHorizontalFlip do (bilinear, antialiased), a
    batch ahead; what is drawn depends on the seed and the place in the whole sequence alone.

    Args:
        labelled: The set.
        rows: This process's rows.
        batch_size: Images of the global batch.
        steps: Batches.
        seed: Of order, crops and flips.
        scale: The crop's part (smallest, largest) of the image's area.

    Raises:
        InputError: An image is damaged, which is named.
    """

    def submit(step: int, numbers: np.ndarray) -> tuple[list, np.ndarray]:
        views = [pool.submit(_crop, labelled, int(numbers[r]), seed, step * batch_size + r, scale) for r in rows]
        return views, labelled.labels[numbers[list(rows)]]

    order = enumerate(shuffled(len(labelled), batch_size=batch_size, steps=steps, seed=seed))
    with ThreadPoolExecutor(labelled.threads) as pool:
        ahead = [submit(*following) for _, following in zip(range(1), order, strict=False)]
        try:
            while ahead:
                views, labels = ahead.pop()
                ahead += [submit(*following) for _, following in zip(range(1), order, strict=False)]
                yield {"input": np.stack([view.result() for view in views]), "label": labels}
        finally:
            pool.shutdown(cancel_futures=True)


def _crop(labelled: Labelled, number: int, seed: int, position: int, scale: Pair) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(key=[seed % 2**64, position], counter=[0, 0, 1, 0]))
    encoded = labelled.source.encoded(number)
    try:
        shape = picture_size(encoded)
        crop = resized_box(encoded, shape, crop_box(random, *shape, scale, _RATIO), labelled.size)
    except DamagedFrame:
        raise
    except ValueError as error:
        raise undecodable(labelled.source, number, error) from error
    return crop[:, ::-1] if random.random() < 0.5 else crop
