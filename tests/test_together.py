"""What processes decide together: an update is looked at by its number, however early it was settled."""

import jax

from ssljax import mesh
from ssljax.in_flight import InFlight
from ssljax.meter import Meter
from ssljax.together import Together


class Log:
    def __init__(self):
        self.meter, self.waited = Meter(samples=1), []

    def update(self, number, metrics, waited, ended):
        self.waited.append(waited)


def test_what_was_said_is_found_by_the_updates_number():
    log, together = Log(), Together(mesh.make_mesh())
    updates = InFlight(log, together, str)
    for number in range(1, 7):
        said = together.say(stop=number == 3, busy=number == 4, waited=number / 2)
        updates.add(number, {"loss": jax.numpy.ones(())}, said)
        updates.settle(0 if number == 4 else 2)  # its data were late, say
        heard = updates.heard(number - 2)
        assert (heard.stop, heard.busy) == (number == 5, number == 6)
    updates.settle(0)
    assert log.waited == [(0.5,), (1.0,), (1.5,), (2.0,), (2.5,), (3.0,)]
