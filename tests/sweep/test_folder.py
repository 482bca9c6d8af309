"""What a sweep's `sweep.json` keeps from one command to the next."""

import pytest

from ssljax.errors import InputError
from ssljax.sweep import Sweep, Variant
from ssljax.sweep import folder as folders


def test_every_command_of_a_sweep_is_kept(tmp_path):
    sweep = Sweep("configs/dora.py", [Variant("a", {})])
    for command in ("first", "second", "second"):
        written = folders.record(tmp_path, "objects", "laptop", command, sweep, [])
        folders.write_json(tmp_path / "sweep.json", written)
    assert (written["command"], written["commands"]) == ("second", ["first", "second"])
    del written["commands"]  # as of a version that kept the last alone
    folders.write_json(tmp_path / "sweep.json", written)
    written = folders.record(tmp_path, "objects", "laptop", "third", sweep, [])
    assert written["commands"] == ["second", "third"]


@pytest.mark.parametrize("damaged", ["[1]", '{"runs": 3}', '{"runs": [{"seed": 1}]}', '{"runs": [], "file": 4}', "{"])
def test_a_damaged_record_of_a_sweep_is_named(tmp_path, damaged):
    (tmp_path / "sweep.json").write_text(damaged)
    with pytest.raises(InputError, match="sweep.json is damaged.*remove it"):
        folders.record(tmp_path, "objects", "laptop", "first", Sweep("configs/dora.py", [Variant("a", {})]), [])
