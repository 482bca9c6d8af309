import numpy as np
import pytest

from ssljax.data.order import Order
from ssljax.errors import InputError


def test_each_epoch_is_a_permutation_of_all_starts():
    order, all_starts = (
        Order([5, 1, 9], seed=3),
        sorted([(0, i) for i in range(5)] + [(1, 0)] + [(2, i) for i in range(9)]),
    )
    epochs = [[order[15 * e + i] for i in range(15)] for e in range(4)]
    assert all(sorted(epoch) == all_starts for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch has its own order"


def test_a_pure_function_of_seed_and_position():
    positions = [7, 123456789, 0, 2**32 - 1, 7]
    a, b, c = Order([1000], seed=1), Order([1000], seed=1), Order([1000], seed=2)
    assert [a[p] for p in positions] == [b[p] for p in reversed(positions)][::-1]
    assert [a[p] for p in range(50)] != [c[p] for p in range(50)]


def test_weights_are_kept_at_any_moment_and_short_videos_repeat():
    weights = [0.5, 0.2, 0.3]
    order = Order([30, 1000, 400], seed=0, weights=weights)
    videos = np.array([order[p][0] for p in range(500)])
    share = np.cumsum(videos[:, None] == np.arange(3), 0)
    assert np.abs(share - np.arange(1, 501)[:, None] * np.array(weights)).max() < 2
    first = [order[p][1] for p in range(500) if order[p][0] == 0]
    assert all(sorted(first[i : i + 30]) == list(range(30)) for i in range(0, 240, 30))


def test_not_correlated_between_videos():
    order = Order([100, 100], seed=5, weights=[1, 1])
    drawn = [[order[p][1] for p in range(200) if order[p][0] == v] for v in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_bad_weights(weights):
    with pytest.raises(InputError, match="weights"):
        Order([3, 3], seed=0, weights=weights)
