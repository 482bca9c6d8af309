"""What processes decide together: an update is looked at by its number, however early it was settled."""

import jax

from ssljax import mesh
from ssljax.in_flight import InFlight
from ssljax.log import Log
from ssljax.together import Together

SETTINGS = {"total": 6, "batch_size": 4, "unit": "samples", "schedules": {}, "config": {}, "writes": True}


def test_what_was_said_is_found_by_the_updates_number(tmp_path):
    together = Together(mesh.make_mesh())
    with Log(tmp_path, start=0, tensorboard=False, **SETTINGS) as log:
        updates = InFlight(log, together, lambda *_: None)
        for number in range(1, 7):
            said = together.say(stop=number == 3, busy=number == 4, waited=number / 2)
            updates.add(number, {"loss": jax.numpy.ones(())}, said)
            updates.settle(0 if number == 4 else 2)  # its data were late, say
            heard = updates.heard(number - 2)
            assert (heard.stop, heard.busy) == (number == 5, number == 6)
        updates.settle(0)
        assert updates.heard(6).waited == (3.0,)
