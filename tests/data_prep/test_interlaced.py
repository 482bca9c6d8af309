"""Interlaced video becomes whole pictures: against the moving scene itself, of which each frame holds two moments."""

from fractions import Fraction

import av
import numpy as np
import pytest
from videos import BLOCKS, number_of

from data_prep.prepare import Settings, prepare
from ssljax.data.deinterlace import deinterlace
from ssljax.data.records import Records

WIDTH, HEIGHT = 192, 128
ALL = Settings(every=1, quality=98)


def scene(number, moment):
    """Grey [h, w] between 16 and 235: blocks that code `number`, and stripes that move 8 pixels a frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bits = np.array([(number >> i) & 1 for i in range(BLOCKS**2)], np.float64).reshape(BLOCKS, BLOCKS)
    grey = 70 + 110 * bits[y * BLOCKS // HEIGHT, x * BLOCKS // WIDTH]
    return np.rint(grey + 40 * np.sin((x - 8 * moment) / 6) + 10 * np.cos(y / 9)).astype(np.uint8)


def woven(number, progressive, top_first):
    """Grey [h, w]: a frame whose second field is half a frame later, unless it is progressive."""
    grey = scene(number, number)
    if not progressive:
        grey[int(top_first) :: 2] = scene(number, number + 0.5)[int(top_first) :: 2]
    return grey


def write(path, codec, options, numbers, progressive=False, top_first=True, gop=10):
    graph = av.filter.Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format="yuv420p", time_base=Fraction(1, 25))
    mark = graph.add("setfield", "prog" if progressive else "tff" if top_first else "bff")
    sink = graph.add("buffersink")
    source.link_to(mark)
    mark.link_to(sink)
    graph.configure()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", gop
        stream.bit_rate, stream.options = 8_000_000, options
        stream.codec_context.color_range, stream.codec_context.colorspace = 1, 5
        for number in numbers:
            grey = woven(number, progressive, top_first)
            planes = np.concatenate([grey, np.full((HEIGHT // 2, WIDTH), 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.vpush(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())
    return path


def combing(grey):
    """How far lines lie from the mean of those above and below them."""
    grey = grey.astype(np.float64)
    return np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2)[np.arange(HEIGHT - 2) % (HEIGHT // BLOCKS) // 4 == 3].mean()


def greys(index):
    """What is stored, in the range of the scene."""
    records = Records(index)
    return [records.decode(i)[..., 1] * (219 / 255) + 16 for i in range(len(index.times))]


FLAGS = {"flags": "+ildct+ilme"}
X264 = FLAGS | {"x264-params": "keyint=10:min-keyint=10:scenecut=0:log-level=-1:qp=10"}
INTERLACED = [
    ("mp4", "libx264", X264, True, 10),
    ("mkv", "libx264", X264, False, 10),
    ("ts", "mpeg2video", FLAGS | {"bf": "2"}, True, 10),
    ("mov", "mpeg2video", FLAGS, False, 1),  # every frame is a keyframe, so that none has a neighbour to trust
]


@pytest.mark.parametrize(("ending", "codec", "options", "top_first", "gop"), INTERLACED)
def test_the_scene_as_the_first_field_saw_it(tmp_path, ending, codec, options, top_first, gop):
    path = write(tmp_path / f"a.{ending}", codec, options, range(40), top_first=top_first, gop=gop)
    index = prepare(path, tmp_path / "out", ALL, segment_seconds=0.4)
    found = greys(index)
    assert [number_of(np.repeat(grey[..., None], 3, 2)) for grey in found] == list(range(40)) and index.dropped == ()
    np.testing.assert_allclose(index.times, np.arange(40) / 25, atol=1e-3)
    for number, grey in enumerate(found):
        assert combing(woven(number, False, top_first)) > 10
        assert combing(grey) < 1, "the scene itself has 0.2"
        assert np.abs(grey - scene(number, number)).mean() < 2


def test_whatever_the_segments_and_threads(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", X264, range(40))
    stored = []
    for seconds, threads in ((0.4, 2), (0.8, 1), (60, 1)):
        index = prepare(path, tmp_path / str(seconds), ALL, segment_seconds=seconds, threads=threads)
        records = Records(index)
        stored.append([records.stored(i) for i in range(40)])
    assert stored[0] == stored[1] == stored[2]


def test_interlaced_and_not_in_one_file(tmp_path):
    """Progressive frames are stored as they are."""
    parts = [
        write(tmp_path / f"{first}.mkv", "mpeg2video", FLAGS, range(first, first + 20), progressive=progressive)
        for first, progressive in ((0, True), (20, False), (40, True))
    ]
    path = tmp_path / "mixed.ts"
    with av.open(str(path), "w") as container:
        for part in parts:
            with av.open(str(part)) as opened:
                stream = (
                    container.streams[0] if part != parts[0] else container.add_stream_from_template(opened.streams[0])
                )
                for packet in opened.demux(opened.streams[0]):
                    if packet.size:
                        packet.stream = stream
                        container.mux(packet)
    index = prepare(path, tmp_path / "out", ALL)
    alone = prepare(parts[0], tmp_path / "alone", ALL)
    assert [number_of(np.repeat(grey[..., None], 3, 2)) for grey in greys(index)] == list(range(60))
    assert max(combing(grey) for grey in greys(index)) < 1
    assert [Records(index).stored(i) for i in range(20)] == [Records(alone).stored(i) for i in range(20)]


@pytest.mark.parametrize("kind", ["zeros", "flipped bits"])
def test_nothing_is_made_with_the_help_of_a_damaged_frame(tmp_path, kind):
    path = write(tmp_path / "a.mp4", "libx264", X264, range(60))
    whole = prepare(path, tmp_path / "whole", ALL)
    data, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    middle = len(data) // 2
    if kind == "zeros":
        data[middle : middle + 1000] = bytes(1000)
    for place in random.integers(middle, middle + 8000, 300) if kind == "flipped bits" else ():
        data[place] ^= 1 << random.integers(8)
    path.write_bytes(data)
    index = prepare(path, tmp_path / "out", ALL)
    kept = np.rint(index.times * 25).astype(int)
    assert 20 <= len(kept) < 60
    assert [Records(index).stored(i) for i in range(len(kept))] == [Records(whole).stored(i) for i in kept.tolist()]


def test_neighbours_of_another_size_are_not_asked(tmp_path):
    with av.open(str(write(tmp_path / "a.mkv", "libx264", X264, range(3)))) as container:
        frames = list(container.decode(video=0))
    small = frames[0].reformat(WIDTH // 2, HEIGHT // 2)
    alone = deinterlace(frames[1], None, None).to_ndarray()
    np.testing.assert_array_equal(deinterlace(frames[1], small, None).to_ndarray(), alone)
