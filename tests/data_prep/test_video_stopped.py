"""Preparation that is stopped, killed or shared by several machines."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prepared import ALL, contents, numbers, stored_frames

from data_prep import prepare as program
from data_prep.prepare import prepare, prepare_shard
from data_prep.video import main


def test_interrupted_and_continued(source, reference, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def stops_after_two(*args):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(args[2])
        return original(*args)

    original = program.write_segment
    monkeypatch.setattr(program, "write_segment", stops_after_two)
    with pytest.raises(OSError, match="No space"):
        prepare(source, out, ALL, segment_seconds=1, threads=1)
    monkeypatch.setattr(program, "write_segment", lambda *args: written.append(args[2]) or original(*args))
    index = prepare(source, out, ALL, segment_seconds=1, threads=1)
    assert written == list(range(len(index.segments))) == [0, 1, 2, 3, 4]
    assert contents(out) == contents(reference[0].folder)


KILLS = """
import os, random, signal, sys
from pathlib import Path
from data_prep import prepare

source, out = sys.argv[1], Path(sys.argv[2])
random = random.Random(0)

def dies(call, name, left):
    def called(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.write(1, name)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return called

last, runs = 0, 0
while True:
    runs += 1
    done = len(list(out.glob("segment-*.json")))
    last += done == 5 or (out / "index.json").exists()
    child = os.fork()
    if not child:
        left, never = [last - 1 if last else random.randrange(10, 80) if runs < 5 else 10**9], [10**9]
        reads = runs % 2 == 0
        prepare.to_record = dies(prepare.to_record, b"encoding\\n", never if reads and not last else left)
        prepare.decode_record = dies(prepare.decode_record, b"reading back\\n", left if reads or last else never)
        if last:
            os.fsync = dies(os.fsync, b"writing\\n", left)
            Path.replace = dies(Path.replace, b"renaming\\n", left)
            Path.unlink = dies(Path.unlink, b"removing\\n", left)
        if not last:
            prepare._finish = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        prepare.prepare(source, out, prepare.Settings(1), segment_seconds=1, threads=2)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_any_moment_and_continued(source, reference, tmp_path):
    """Four times at random moments of decoding; once all is decoded, at each step of finishing in turn."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLS, str(source), str(out)]
    done = subprocess.run(command, cwd=Path(program.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    moments = done.stdout.split("\n")
    assert {"encoding", "reading back", "writing", "renaming", "removing"} <= set(moments)
    index = prepare(source, out, ALL, segment_seconds=1)
    assert numbers(index) == list(range(200)) and stored_frames(index) == reference[1]
    assert contents(out) == contents(reference[0].folder), "nothing else is left"


def test_machines_share_a_video(source, reference, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare_shard(source, out, ALL, shard=(2, 3), segment_seconds=1) is None
    assert prepare_shard(source, out, ALL, shard=(2, 3), segment_seconds=1) is None, "again is nothing"
    assert {file.name for file in out.glob("frames-*")} == {f"frames-0000{i}.array_record" for i in (1, 4)}
    assert prepare_shard(source, out, ALL, shard=(1, 3), segment_seconds=1) is None
    index = prepare_shard(source, out, ALL, shard=(3, 3), segment_seconds=1)
    assert index is not None and contents(out) == contents(reference[0].folder)
    assert prepare_shard(source, out, ALL, shard=(1, 3), segment_seconds=1).checksum == index.checksum
    assert main([str(source), "--output", str(tmp_path / "one"), "--shard", "2/2"]) == 0
    assert "part 2 of 2 is done, others are not" in capsys.readouterr().out


def test_machines_that_share_no_folder(source, reference, tmp_path):
    for i in (1, 2):
        assert prepare_shard(source, tmp_path / str(i), ALL, shard=(i, 2), segment_seconds=1) is None
    shutil.copytree(tmp_path / "1", tmp_path / "2", dirs_exist_ok=True)
    prepare(source, tmp_path / "2", ALL, segment_seconds=1)
    assert contents(tmp_path / "2") == contents(reference[0].folder)


def test_another_machine_finished_meanwhile(source, tmp_path, monkeypatch):
    """It wrote the index and removed the traces between our last segment and our look at all of them."""
    out = tmp_path / "out"
    assert prepare_shard(source, out, ALL, shard=(1, 2), segment_seconds=1) is None
    write = program.write_segment

    def last(*args):
        done = write(*args)
        if args[2] == 3:
            monkeypatch.setattr(program, "write_segment", write)
            prepare(source, out, ALL, segment_seconds=1)
        return done

    monkeypatch.setattr(program, "write_segment", last)
    index = prepare_shard(source, out, ALL, shard=(2, 2), segment_seconds=1, threads=1)
    assert index is not None and numbers(index) == list(range(200))


def test_a_frame_that_cannot_be_read_back_is_not_finished(source, tmp_path, monkeypatch):
    """A frame that reads as bytes but not as a picture: an error, and nothing is left of the segment."""
    convert = program.to_record

    def faulty(frame, *args, **settings):
        record = convert(frame, *args, **settings)
        return record if frame.time < 3 else record[:40] + bytes(len(record) - 40)

    monkeypatch.setattr(program, "to_record", faulty)
    with pytest.raises(OSError, match="frames-0000[0-9].array_record.* cannot be read back"):
        prepare(source, tmp_path / "out", ALL, segment_seconds=1, threads=1)
    assert {file.name for file in (tmp_path / "out").glob("*.array_record")} <= {
        f"frames-0000{i}.array_record" for i in range(2)
    }
    assert not list((tmp_path / "out").glob(".*")) and not (tmp_path / "out" / "index.json").exists()
    monkeypatch.undo()
    assert numbers(prepare(source, tmp_path / "out", ALL, segment_seconds=1)) == list(range(200))
