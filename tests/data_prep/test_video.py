"""Preparation, on files whose frames show their number."""

import errno
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from videos import make_sound, make_video, number_of

from data_prep import prepare as program
from data_prep import store
from data_prep.prepare import Settings, prepare, prepare_shard
from data_prep.video import main
from ssljax.data import video
from ssljax.data.records import Records
from ssljax.errors import InputError

ALL = Settings(every=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """8 s, 200 frames in groups of 20, the index at the end of the file."""
    return make_video(tmp_path_factory.mktemp("source") / "street.mp4", 200)


@pytest.fixture(scope="module")
def reference(source):
    """The undamaged preparation, in segments of two groups: its frames as bytes."""
    index = prepare(source, source.parent / "reference", ALL, segment_seconds=1)
    return index, stored_frames(index)


def stored_frames(index):
    records = Records(index)
    return [records.stored(i) for i in range(len(index.times))]


def numbers(index):
    records = Records(index)
    return [number_of(records.decode(i)) for i in range(len(index.times))]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("every", "step"), [(1, 1), (7, 7), (None, 4)])
def test_every_nth_frame_is_stored_once_with_its_time(source, tmp_path, every, step):
    index = prepare(source, tmp_path / "out", Settings(every), segment_seconds=1)
    assert numbers(index) == list(range(0, 200, step))
    np.testing.assert_allclose(index.times, np.arange(0, 200, step) / 25, atol=1e-6)
    assert index.duration == pytest.approx(8.0)
    assert (index.width, index.height, index.dropped) == (128, 128, ())
    assert index.settings["every"] == step
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        ["index.json", "contact.jpg", *(segment.file for segment in index.segments)]
    )


def test_threads_change_nothing(source, reference, tmp_path):
    prepare(source, tmp_path / "out", ALL, segment_seconds=1, threads=4)
    assert contents(tmp_path / "out") == contents(reference[0].folder)


def test_scaled_down_and_never_up(source, tmp_path):
    small = prepare(source, tmp_path / "small", Settings(every=20, short_side=64))
    assert (small.width, small.height) == (64, 64) and numbers(small) == list(range(0, 200, 20))
    assert Records(small).decode(3).shape == (64, 64, 3)
    assert prepare(source, tmp_path / "large", Settings(every=20, short_side=4000)).width == 128


def test_again_is_nothing_and_otherwise_is_refused(source, reference, tmp_path):
    out = tmp_path / "out"
    first = prepare(source, out, Settings(every=10))
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert prepare(source, out, Settings(every=10)).checksum == first.checksum
    with pytest.raises(InputError, match="with other settings .every 10 instead of 5"):
        prepare(source, out, Settings(every=5))
    other = make_video(tmp_path / "street.mp4", 40)
    with pytest.raises(InputError, match="from another file"):
        prepare(other, out, Settings(every=10))
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a preparation's"):
        prepare(source, tmp_path / "foreign", ALL)


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


def test_contact_sheet(source, reference):
    sheet = simplejpeg.decode_jpeg((reference[0].folder / "contact.jpg").read_bytes())
    assert sheet.shape == (4 * 240, 6 * 240, 3)
    pictures = sheet.reshape(4, 240, 6, 240, 3).swapaxes(1, 2).reshape(24, 240, 240, 3)
    shown = [number_of(picture) & 0x0FFF for picture in pictures]  # the time is written over the lowest blocks
    assert shown == np.linspace(0, 199, 24).round().astype(int).tolist()
    small = prepare(source, reference[0].folder.parent / "few", Settings(every=50))
    assert simplejpeg.decode_jpeg((small.folder / "contact.jpg").read_bytes()).shape == (240, 4 * 240, 3)


def damaged(data: bytes, kind: str) -> bytes:
    data, random = bytearray(data), np.random.default_rng(1)
    middle = len(data) // 2
    if kind == "zeros":
        data[middle : middle + 4096] = bytes(4096)
    elif kind == "random bytes":
        data[middle : middle + 4096] = random.bytes(4096)
    else:
        for place in random.integers(middle, middle + 8192, 300):
            data[place] ^= 1 << random.integers(8)
    return bytes(data)


@pytest.mark.parametrize("kind", ["zeros", "random bytes", "flipped bits"])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_no_damaged_frame_is_stored(source, reference, tmp_path, kind, ending):
    whole = make_video(tmp_path / f"whole.{ending}", 200).read_bytes()
    broken = tmp_path / f"broken.{ending}"
    broken.write_bytes(damaged(whole, kind))
    index = prepare(broken, tmp_path / "out", ALL, segment_seconds=1)
    stored = np.rint(index.times * 25).astype(int)
    assert 20 <= len(stored) < 200
    assert stored_frames(index) == [reference[1][i] for i in stored], "the same encoding: equal to the byte"
    assert numbers(index) == stored.tolist()
    lost = np.setdiff1d(np.arange(200) / 25, np.round(index.times, 2))
    inside = [any(a - 1e-6 <= moment < b for a, b in index.dropped) for moment in lost]
    assert len(lost) and all(inside)


def test_times_that_go_back(source, reference, tmp_path, monkeypatch):
    """Into two groups that were stored before, as a flipped bit in a fragment's header made them."""
    frames = video._frames

    def back(*arguments):
        for number, (pts, frame) in enumerate(frames(*arguments)):
            yield pts - {65: 60, 66: 41}.get(number, 0) * 512, frame

    monkeypatch.setattr(video, "_frames", back)
    index = prepare(source, tmp_path / "out", ALL)
    assert index.dropped == ((2.4, 3.2),)
    assert stored_frames(index) == [frame for i, frame in enumerate(reference[1]) if not 60 <= i < 80]


def test_a_packet_that_vanishes(source, reference, tmp_path):
    """MPEG-TS without the packet of a frame that others need: nothing tells but the rhythm of the times."""
    path = make_video(tmp_path / "a.ts", 200)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        lost = max((p for p in packets[60:140] if not p.is_keyframe), key=lambda packet: packet.size)
        number = round(float((lost.pts - packets[0].pts) * lost.time_base) * 25)
        with av.open(str(tmp_path / "lost.ts"), "w") as output:
            stream = output.add_stream_from_template(container.streams.video[0])
            for packet in packets:
                if packet is not lost:
                    packet.stream = stream
                    output.mux(packet)
    index = prepare(tmp_path / "lost.ts", tmp_path / "out", ALL, segment_seconds=1)
    first = number // 20 * 20
    assert numbers(index) == [i for i in range(200) if not first <= i < first + 20]
    assert stored_frames(index) == [reference[1][i] for i in range(200) if not first <= i < first + 20]


def test_cut_short(tmp_path, capsys):
    whole = make_video(tmp_path / "whole.mp4", 200, container_options={"movflags": "faststart"}).read_bytes()
    cut, out = tmp_path / "cut.mp4", tmp_path / "out"
    cut.write_bytes(whole[: len(whole) // 2])
    assert main([str(cut), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cut short" in error and "of 8.00 s" in error and "--allow-damage" in error
    assert not out.exists()
    assert main([str(cut), "--output", str(out), "--allow-damage", "--every", "1"]) == 0
    assert "damaged, nothing stored" in capsys.readouterr().out
    index = program.read_index(out / "cut")
    assert numbers(index) == list(range(80)) and index.dropped == ((3.2, 8.0),)


def test_zeros_at_the_end_are_a_cut_too(tmp_path):
    whole = make_video(tmp_path / "whole.mp4", 200, container_options={"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(InputError, match="only the first 3.20 s of 8.00 s"):
        prepare(cut, tmp_path / "out", ALL)
    assert numbers(prepare(cut, tmp_path / "out", ALL, allow_damage=True)) == list(range(80))


BAD = {
    "missing.mp4": "does not exist",
    "empty.mp4": "is empty",
    "nomoov.mp4": "cannot be opened",
    "sound.m4a": "holds no video, only sound",
    "words.mp4": "cannot be opened",
    "words.txt": "holds no video",
    "picture.png": "holds no video",
    "folder.mp4": "is not a file",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(source, tmp_path, capsys, name):
    path, out = tmp_path / name, tmp_path / "out"
    if name == "empty.mp4":
        path.touch()
    elif name == "nomoov.mp4":
        path.write_bytes(source.read_bytes()[:50000])
    elif name == "sound.m4a":
        make_sound(path)
    elif name.startswith("words"):
        path.write_text("not a video at all\n" * 500)
    elif name == "picture.png":
        from PIL import Image

        Image.new("RGB", (64, 64)).save(path)
    elif name == "folder.mp4":
        path.mkdir()
    good = make_video(tmp_path / "good.mp4", 40)
    assert main([str(good), str(path), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and BAD[name] in error and str(path) in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--output", "OUT", "--every", "0"], "--every 0"),
        (["--output", "OUT", "--every", "two"], "--every"),
        (["--output", "OUT", "--quality", "101"], "--quality 101"),
        (["--output", "OUT", "--short-side", "8"], "--short-side 8"),
        (["--output", "OUT", "--chroma", "422"], "--chroma 422"),
        (["--output", "OUT", "--shard", "3/2"], "--shard: 3/2 must be I/N"),
        (["--output", "OUT", "--shard", "half"], "--shard: half must be I/N"),
        (["--output", "OUT", "--threads", "0"], "--threads 0"),
        (["--output", "OUT", "--threads", "-1"], "--threads -1"),
        (["--output", "OUT", "--blur", "..x"], "--blur ..x cannot be imported"),
        (["--output", "OUT", "--colour"], "--colour"),
    ],
)
def test_bad_arguments(source, tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main([str(source), *(str(out) if a == "OUT" else a for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not out.exists()


@pytest.mark.parametrize("kind", ["inside a file", "not permitted", "full disk"])
def test_output_that_cannot_be_written(source, tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "out"
    if kind == "inside a file":
        out.write_text("mine")
    elif kind == "full disk":
        monkeypatch.setattr(os, "fsync", functools.partial(fails, OSError(errno.ENOSPC, "No space left on device")))
    else:  # whoever runs the tests may be permitted everything
        monkeypatch.setattr(Path, "mkdir", functools.partial(fails, PermissionError(errno.EACCES, "Permission denied")))
    assert main([str(source), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "street cannot be written" in error and "choose another --output" in error
    if kind == "inside a file":
        assert out.read_text() == "mine"


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_disk_that_is_full_in_the_middle(source, tmp_path, capsys, monkeypatch, method):
    """ArrayRecord's own words for it, seen on a small file system."""

    class Full(store.ArrayRecordWriter):
        pass

    setattr(Full, method, functools.partial(fails, RuntimeError("write() failed: No space left on device; at byte 8")))
    monkeypatch.setattr(store, "ArrayRecordWriter", Full)
    assert main([str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error and "run the same command again" in error
    monkeypatch.undo()
    assert main([str(source), "--output", str(tmp_path / "out")]) == 0


def fails(error, *arguments, **options):
    raise error


def test_files_are_for_others_to_read(source, tmp_path):
    prepare(source, tmp_path / "out", Settings(every=20))
    previous = os.umask(0)
    os.umask(previous)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o666 & ~previous}


def test_two_files_of_one_name(source, tmp_path, capsys):
    other = make_video(tmp_path / "street.mkv", 40)
    assert main([str(source), str(other), "--output", str(tmp_path / "out")]) == 2
    assert "would both become" in capsys.readouterr().err


def test_a_name_that_could_be_an_address(source, reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(source, "day:1.mp4")
    assert np.array_equal(prepare("day:1.mp4", "out", ALL).times, reference[0].times)


def test_a_name_that_is_not_text(source, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.mp4")
    shutil.copy(source, path)
    with pytest.raises(InputError, match="is not a name in UTF-8"):
        prepare(path, tmp_path / path.stem, ALL)
    assert not (tmp_path / path.stem).exists()


def test_command_line(source, tmp_path):
    command = [
        sys.executable,
        "-m",
        "data_prep.video",
        str(source),
        "--output",
        str(tmp_path / "out"),
        "--short-side",
        "64",
    ]
    done = subprocess.run(
        command, cwd=Path(program.__file__).parents[1], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "50 frames of 64x64 (every 4), 8.0 s" in done.stdout and "contact.jpg" in done.stdout
    index = json.loads((tmp_path / "out" / "street" / "index.json").read_text())
    assert index["name"] == "street" and index["source"]["file"] == "street.mp4"
    assert str(tmp_path) not in json.dumps(index), "the index must not depend on where it was made"
