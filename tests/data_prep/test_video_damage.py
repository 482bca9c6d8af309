"""Preparation of damaged videos: what cannot be trusted is left out and told."""

import av
import numpy as np
import pytest
from prepared import ALL, numbers, stored_frames
from videos import make_video

from data_prep import prepare as program
from data_prep.prepare import prepare
from data_prep.video import main
from ssljax.data import video
from ssljax.errors import InputError


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
