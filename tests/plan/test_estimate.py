"""What a plan adds to what the compiler tells."""

from ssljax.plan.estimate import _repeated


def test_devices_along_tensor_repeat_what_it_does_not_split():
    layers = {"student/attention": 10.0, "student/mlp": 100.0, "prototypes": 1000.0, "head": 1.0}
    assert _repeated(layers, 1) == 1111.0
    assert _repeated(layers, 4) == 4 * 11.0 + 1100.0
