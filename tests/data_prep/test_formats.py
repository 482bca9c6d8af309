"""Containers, codecs and the oddities of real files."""

from fractions import Fraction

import av
import numpy as np
import pytest
from videos import make_video, number_of, picture

from data_prep.prepare import Settings, prepare
from ssljax.data.hdr import tone_map
from ssljax.data.records import Records
from ssljax.errors import InputError

ALL = Settings(every=1)


def numbers(index):
    records = Records(index)
    return [number_of(records.decode(i)) for i in range(len(index.times))]


def stored_frames(index):
    records = Records(index)
    return [records.stored(i) for i in range(len(index.times))]


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        ("mkv", "libx264", {}),
        ("flv", "libx264", {}),
        ("mp4", "libx265", {"x265-params": "log-level=none"}),
        ("webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("mkv", "libsvtav1", {"preset": "8", "crf": "20"}),
        ("avi", "mpeg4", {}),
        ("mov", "prores_ks", {}),
    ],
)
def test_codecs(tmp_path, ending, codec, options):
    pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    path = make_video(tmp_path / f"a.{ending}", 60, codec=codec, options=options, pixels=pixels)
    index = prepare(path, tmp_path / "out", ALL, segment_seconds=1)
    assert numbers(index) == list(range(60)) and index.dropped == ()
    np.testing.assert_allclose(index.times, np.arange(60) / 25, atol=1e-3)


def test_open_groups_of_pictures(tmp_path):
    """Frames before a keyframe that need it belong to the segment before it."""
    path = make_video(
        tmp_path / "open.mp4",
        options={"x264-params": "keyint=20:min-keyint=20:scenecut=0:open-gop=1:bframes=3:b-adapt=0:log-level=-1"},
    )
    index = prepare(path, tmp_path / "out", ALL, segment_seconds=1)
    assert len(index.segments) > 2 and numbers(index) == list(range(100)) and index.dropped == ()


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_presentation_times(tmp_path, ending):
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 100)) + 3
    path = make_video(tmp_path / f"a.{ending}", times=times.tolist())
    index = prepare(path, tmp_path / "out", Settings(every=3), segment_seconds=1)
    assert numbers(index) == list(range(0, 100, 3))
    np.testing.assert_allclose(index.times, times[::3] - times[0], atol=1.1e-3 if ending == "mkv" else 1e-4)


def test_ten_bits_and_odd_sizes(tmp_path):
    ten = make_video(tmp_path / "ten.mp4", 40, pixels="yuv420p10le")
    assert numbers(prepare(ten, tmp_path / "ten", ALL)) == list(range(40))
    odd = make_video(tmp_path / "odd.mp4", 40, size=(131, 103), pixels="yuv444p")
    index = prepare(odd, tmp_path / "odd", ALL)
    assert numbers(index) == list(range(40)) and (index.width % 2, index.height % 2) == (0, 0)


def test_rotation_is_applied(tmp_path):
    path = make_video(tmp_path / "turned.mp4", 40, size=(160, 128))
    data = bytearray(path.read_bytes())
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = data.rfind(identity)  # the track's matrix; before it comes the movie's
    data[place : place + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 128 << 16, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    index = prepare(path, tmp_path / "out", ALL)
    assert (index.width, index.height) == (128, 160)
    frame = Records(index).decode(25)
    assert frame.shape == (160, 128, 3) and number_of(np.rot90(frame)) == 25  # shown turned clockwise


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ([-1, 0, 0, 1], lambda picture: picture[:, ::-1]),
        ([1, 0, 0, -1], lambda picture: picture[::-1]),
        ([0, 1, 1, 0], lambda picture: picture.swapaxes(0, 1)),
    ],
)
def test_mirrored(tmp_path, matrix, shown):
    path = make_video(tmp_path / "a.mp4", 40, size=(160, 128))
    plain = Records(prepare(path, tmp_path / "plain", ALL)).decode(25)
    data = bytearray(path.read_bytes())
    place = data.rfind(np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes())
    a, b, c, d = (number << 16 for number in matrix)
    data[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    stored = Records(prepare(path, tmp_path / "out", ALL)).decode(25)
    assert number_of(shown(stored)) == 25
    assert np.abs(shown(stored).astype(int) - plain).mean() < 2


@pytest.mark.parametrize(
    ("codec", "ending"), [("libx264", "mp4"), ("libx264", "ts"), ("libx265", "mp4"), ("libx265", "mkv")]
)
def test_zeros_that_decode_without_an_error(tmp_path, codec, ending):
    """In the middle of a keyframe, where an arithmetic decoder makes some picture of them."""
    options = {"x265-params": "log-level=none:keyint=20:open-gop=0:scenecut=0"} if codec == "libx265" else {}
    path = make_video(tmp_path / f"a.{ending}", 100, codec=codec, options=options)
    whole = stored_frames(prepare(path, tmp_path / "whole", ALL))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    data, key = path.read_bytes(), packets[2]
    tried = 0
    for place in range(len(key) // 2, len(key) - 100, len(key) // 10):
        piece = key[place : place + 32]
        if data.count(piece) != 1:  # broken by a header of MPEG-TS, or no part of the picture
            continue
        tried += 1
        damaged = tmp_path / f"{place}.{ending}"
        damaged.write_bytes(data.replace(piece, bytes(32)))
        index = prepare(damaged, tmp_path / f"{place}", ALL)
        ((start, end),) = index.dropped
        assert start in (0.8, 1.6) and end == 2.4  # frames before the keyframe may need it
        kept = [i for i in range(100) if not round(25 * start) <= i < 60]
        assert stored_frames(index) == [whole[i] for i in kept]
    assert tried


def test_a_change_of_size_is_refused(tmp_path):
    first = make_video(tmp_path / "first.ts", 40)
    second = make_video(tmp_path / "second.ts", 40, size=(160, 160), times=[2 + i / 25 for i in range(40)])
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(InputError, match="changes its size from 128x128 to 160x160"):
        prepare(both, tmp_path / "out", ALL)


def test_contradicting_times_are_refused(tmp_path):
    """AVI holds no presentation times, so that reordered frames cannot be placed."""
    path = make_video(tmp_path / "a.avi", 60)
    with pytest.raises(InputError, match="holds no presentation times"):
        prepare(path, tmp_path / "out", ALL)


def make_hdr(path, transfer):
    """Grey steps of HDR, HEVC at 10 bits: frame i has signal (i + 1) / 11."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p10le"
        stream.options = {"x265-params": "log-level=none:qp=4"}
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1
        for i in range(11):
            planes = np.full((192, 128), 512, np.uint16)
            planes[:128] = round(64 + 876 * (i + 1) / 11)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_brought_down_to_sdr(tmp_path, transfer):
    path = make_hdr(tmp_path / "hdr.mp4", transfer)
    records = Records(prepare(path, tmp_path / "out", Settings(every=1, quality=98)))
    for i in range(11):
        signal = np.full((1, 1, 3), (i + 1) / 11, np.float32)
        np.testing.assert_allclose(
            records.decode(i), 255 * np.broadcast_to(tone_map(signal, transfer), (128, 128, 3)), atol=3
        )


def test_dolby_vision_in_its_own_colours_is_refused(tmp_path):
    """Known by the name of its samples, where nothing says what its colours are."""
    plain = make_video(tmp_path / "plain.mp4", 40, codec="libx265", options={"x265-params": "log-level=none"})
    path = tmp_path / "vision.mp4"
    path.write_bytes(plain.read_bytes().replace(b"hev1", b"dvh1"))
    with pytest.raises(InputError, match="Dolby Vision in colours of its own"):
        prepare(path, tmp_path / "out", ALL)
    path.write_bytes(make_hdr(tmp_path / "hdr.mp4", 18).read_bytes().replace(b"hev1", b"dvh1"))
    assert len(prepare(path, tmp_path / "out", ALL).times) == 11, "it says that it is HLG"


def edited(path, skipped):
    """An MP4's edit list made to skip so many frames at its beginning."""
    data = bytearray(path.read_bytes())
    place = data.find(b"elst") + 4  # version and flags, the number of entries, (duration, first time, rate) of each
    assert data[place] == 0 and int.from_bytes(data[place + 4 : place + 8], "big") == 1
    first = int.from_bytes(data[place + 12 : place + 16], "big")
    data[place + 12 : place + 16] = (first + 512 * skipped).to_bytes(4, "big")
    header = data.find(b"mvhd") + 4  # version and flags, two dates, the units of a second in which the edit lasts
    scale = int.from_bytes(data[header + 12 : header + 16], "big")
    lasts = int.from_bytes(data[place + 8 : place + 12], "big")
    data[place + 8 : place + 12] = (lasts - scale * skipped // 25).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("skipped", [1, 20, 25, 39])
def test_an_edit_list_that_skips_the_beginning(tmp_path, skipped):
    """Also in the middle of a group of pictures, whose first frames are decoded but not shown."""
    path = edited(make_video(tmp_path / "a.mp4", 100), skipped)
    index = prepare(path, tmp_path / "out", ALL, segment_seconds=1)
    assert numbers(index) == list(range(skipped, 100)) and index.dropped == ()
    np.testing.assert_allclose(index.times, np.arange(100 - skipped) / 25, atol=1e-4)


def test_an_edit_list_that_begins_with_nothing(tmp_path):
    path = make_video(tmp_path / "late.mp4", 100, times=[1.5 + i / 25 for i in range(100)])
    data = path.read_bytes()
    place = data.find(b"elst") + 4
    assert int.from_bytes(data[place + 4 : place + 8], "big") == 2 and data[place + 12 : place + 16] == b"\xff" * 4
    index = prepare(path, tmp_path / "out", ALL, segment_seconds=1)
    assert numbers(index) == list(range(100)) and index.dropped == ()
    np.testing.assert_allclose(index.times, np.arange(100) / 25, atol=1e-4)


def test_anamorphic(tmp_path):
    """Pixels that are wider than high: the height is scaled, so that a square is a square."""
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 144, 128, "yuv420p"
        stream.sample_aspect_ratio = Fraction(4, 3)
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(picture(i, 144, 128), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    index = prepare(path, tmp_path / "out", ALL)
    assert (index.width, index.height) == (144, 96) and numbers(index) == list(range(20))


def test_full_range_at_half_the_chroma(tmp_path):
    path = make_video(tmp_path / "a.avi", 20, codec="mjpeg", pixels="yuvj422p", options={"qmin": "1", "qmax": "2"})
    index = prepare(path, tmp_path / "out", Settings(every=1, quality=98))
    assert numbers(index) == list(range(20))
    for i in (0, 9, 19):
        error = Records(index).decode(i).astype(int) - picture(i, 128, 128)
        assert abs(error.mean()) < 0.5, "read at limited range it would be brighter by several"


@pytest.mark.parametrize("codec", ["libx264rgb", "ffv1"])
@pytest.mark.parametrize("size", [(720, 720), (128, 128)])
def test_colours_that_come_as_rgb(tmp_path, codec, size):
    """Not read as BT.709, which is usual from 720 lines on."""
    red = np.full((*size, 3), (200, 40, 20), np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "bgr0"
        for _ in range(3):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode())
    stored = Records(prepare(tmp_path / "a.mkv", tmp_path / "out", Settings(every=1, short_side=720, quality=98)))
    assert np.abs(stored.decode(1).astype(int) - red).max() <= 4


@pytest.mark.parametrize("ending", ["mkv", "ts"])
def test_cut_short_in_a_container_that_is_read_as_it_comes(tmp_path, ending):
    """Matroska promises a duration; MPEG-TS promises none, so that a cut is a shorter video."""
    whole = make_video(tmp_path / f"whole.{ending}", 100)
    reference = Records(prepare(whole, tmp_path / "reference", ALL))
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    if ending == "mkv":
        with pytest.raises(InputError, match="cut short .* of 4.00 s"):
            prepare(cut, tmp_path / "out", ALL)
    index = prepare(cut, tmp_path / "out", ALL, allow_damage=True)
    assert 20 <= len(index.times) < 60
    np.testing.assert_allclose(index.times, np.arange(len(index.times)) / 25, atol=1e-3)
    assert [Records(index).stored(i) for i in range(len(index.times))] == [
        reference.stored(i) for i in range(len(index.times))
    ]
