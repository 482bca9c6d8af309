"""Windows a second of the prepared loader against the released loader's algorithm, on one video, alternated in one run.

    python -m benchmarks.loader [VIDEO] [--4k]

Without VIDEO it renders one of 24 s in 1920x1080, with --4k one of 96 s in 3840x2160. The released algorithm opens the
file anew for each window and reads the times of all its packets, as a new decord reader does, then gets each frame that
it needs: decodes on from the last one, or from the keyframe before it where that is further on; cuts and resizes. Both
give the same windows: 8 frames, --gap seconds apart (2 by default, 60 frames of 30 a second), on a 300 pixel canvas.
One thread each, one after the other in turn.

Printed too: the luma PSNR of both canvases against the area mean of the original frames, the windows/s over threads,
and of a fresh process the seconds to its first batch and its memory over --soak windows. What the preparation costs is
in benchmarks/preparation.py.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from data_prep.prepare import prepare
from ssljax.data.loader import load
from ssljax.data.windows import Windows

FRAMES, SIZE = 8, 300
LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709


def render(path: Path, seconds: int, size: tuple[int, int]) -> Path:
    """A moving texture at 30 frames a second, keyframes every 150."""
    texture = np.random.default_rng(0).integers(0, 256, (size[1] // 8 * 2, size[0] // 8 * 2, 3), np.uint8)
    texture = cv2.resize(texture, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 150
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        for i in range(30 * seconds):
            x, y = 2 * i % size[0], i % size[1]
            picture = np.ascontiguousarray(texture[y : y + size[1], x : x + size[0]])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def released(
    video: Path, where: dict, scale: float, seen: Callable[[av.VideoFrame, np.ndarray], None] | None = None
) -> None:
    """One window: open, read all packets' times, get each frame, cut, resize. `seen` is told frames and canvases."""
    top, left, h, w = (round(side * scale) for side in where["box"])
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        times = sorted(pts for pts, _ in packets)
        keys = np.array(sorted(pts for pts, is_key in packets if is_key))
        decoded, last = iter(()), times[0] - 1
        for i, moment in enumerate(where["times"]):
            wanted = times[0] + round(moment / stream.time_base)
            key = keys[max(np.searchsorted(keys, wanted + 1, "right") - 1, 0)]
            if not i or key > last:
                container.seek(int(key), stream=stream)
                decoded = container.decode(stream)
            frame = next(frame for frame in decoded if frame.pts >= wanted - 1)
            last = frame.pts
            crop = frame.to_ndarray(format="rgb24")[top : top + h, left : left + w]
            canvas = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
            if seen:
                seen(frame, canvas)


def luma(frame: av.VideoFrame) -> np.ndarray:
    """The luma of a video frame of 8 bits, 0 to 255, as it is stored: no conversion between."""
    plane = frame.planes[0]
    y = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return y.astype(np.float32) if frame.color_range == ColorRange.JPEG else (y - np.float32(16)) * (255 / 219)


def psnr(canvas: np.ndarray, reference: np.ndarray) -> float:
    """Of the luma of an RGB canvas, in decibels."""
    return float(10 * np.log10(255**2 / np.mean((canvas @ LUMA - reference) ** 2)))


def throughput(windows: Windows, position: int, count: int, threads: int) -> float:
    """Windows a second through Grain, without its start."""
    with load(windows, rows=[0], batch_size=1, position=position, threads=threads, buffer=threads) as batches:
        for _ in range(2 * threads):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return count / (time.perf_counter() - began)


def alternate(video: Path, windows: Windows, rounds: int) -> None:
    """Print the ratio: one window of the released algorithm, 20 of ours, and so on."""
    scale = _scale(video, windows)
    ours, theirs = [], []
    for position in range(rounds):
        where = windows.describe(position)
        began = time.perf_counter()
        released(video, where, scale)
        theirs.append(time.perf_counter() - began)
        ours.append(1 / throughput(windows, 20 * position, 20, threads=1))
    print(f"windows/s on one thread: released algorithm {1 / np.mean(theirs):.3f}, prepared {1 / np.mean(ours):.1f}")
    print(f"ratio: {np.mean(theirs) / np.mean(ours):.0f}")


def quality(video: Path, folder: Path, count: int) -> None:
    """Print the luma PSNR of both canvases against the area mean of the original luma, the mean over `count` frames."""
    windows = Windows(video=folder, frames=1, gap=1.0, size=SIZE)
    scale, found = _scale(video, windows), []
    for position in range(count):
        where, canvas = windows.describe(position), windows[position]["frames"][0]
        top, left, h, w = (round(side * scale) for side in where["box"])

        def compare(frame: av.VideoFrame, other: np.ndarray) -> None:
            crop = luma(frame)[top : top + h, left : left + w]  # noqa: B023  called before the next round
            area = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            found.append((psnr(canvas, area), psnr(other, area)))  # noqa: B023

        released(video, where, scale, compare)
    ours, theirs = np.mean(found, axis=0)
    print(f"luma PSNR against the original's area mean: prepared {ours:.1f} dB, released sampling {theirs:.1f} dB")


def _scale(video: Path, windows: Windows) -> float:
    with av.open(str(video)) as container:
        return container.streams.video[0].height / windows.indexes[0].height


def _rss() -> float:
    """This process's memory in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024


def _soak(folder: Path, gap: float, count: int, answer: multiprocessing.SimpleQueue) -> None:
    """In a fresh process: (seconds to the first batch, memory after 200 windows, the most after them)."""
    began = time.perf_counter()
    windows = Windows(video=folder, frames=FRAMES, gap=gap, size=SIZE)
    with load(windows, rows=range(8), batch_size=8) as batches:
        next(batches)
        first = time.perf_counter() - began
        memory = []
        for _ in range(max(count // 8, 26)):
            next(batches)
            memory.append(_rss())
    answer.put((first, memory[24], max(memory[25:])))


def measure(video: Path, folder: Path, rounds: int, gap: float, soak: int) -> None:
    """Print everything for one video."""
    if not folder.exists():
        prepare(video, folder)
    windows = Windows(video=folder, frames=FRAMES, gap=gap, size=SIZE)
    index = windows.indexes[0]
    size = sum(segment.bytes for segment in index.segments)
    print(f"{index.duration:.0f} s of video, {len(index.times)} frames of {index.width}x{index.height} stored, "
          f"{size / index.duration * 3600 / 1e9:.2f} GB per hour of video")  # fmt: skip
    alternate(video, windows, rounds)
    quality(video, folder, 4 * rounds)
    one = throughput(windows, 0, 200, 1)
    for threads in range(1, (os.cpu_count() or 1) + 1):
        rate = throughput(windows, 0, 200, threads)
        print(f"{threads} threads: {rate:.1f} windows/s, {rate / one:.2f} times one thread")
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_soak, args=(folder, gap, soak, answer))
    process.start()
    process.join()
    first, early, most = answer.get()
    print(f"a fresh process: first batch of 8 after {first:.2f} s, {early:.0f} MiB after 200 windows, "
          f"at most {most:.0f} MiB until window {soak}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--4k", dest="large", action="store_true")
    parser.add_argument("--gap", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--soak", type=int, default=1000, metavar="WINDOWS")
    parser.add_argument("--prepared", type=Path, metavar="DIR", help="keep the prepared video there, or find it there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = (96, (3840, 2160)) if args.large else (24, (1920, 1080))
        video = args.video or render(Path(folder) / "rendered.mp4", seconds, size)
        measure(video, args.prepared or Path(folder) / "prepared", args.rounds, args.gap, args.soak)


if __name__ == "__main__":
    main()
