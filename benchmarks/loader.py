"""Windows a second of the prepared loader against the released loader's algorithm, on one video, alternated in one run.

    python -m benchmarks.loader [VIDEO] [--4k]

Without VIDEO it renders a small one of 40 s, with --4k one of 96 s in 3840x2160. The released algorithm opens the file
anew for each window and reads the times of all its packets, as a new decord reader does, then gets each frame that it
needs: decodes on from the last one, or from the keyframe before it where that is further on; cuts and resizes. Both
give the same windows: 8 frames, --gap seconds apart (2 by default, 60 frames of 30 a second), on a 300 pixel canvas.
One thread each, one after the other in turn. The preparation is measured too.
"""

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from data_prep.prepare import prepare
from ssljax.data.loader import load
from ssljax.data.windows import Windows


def render(path: Path, seconds: int, size: tuple[int, int]) -> Path:
    """A moving texture at 30 frames a second, keyframes every 150."""
    texture = np.random.default_rng(0).integers(0, 256, (size[1] // 8 * 2, size[0] // 8 * 2, 3), np.uint8)
    texture = cv2.resize(texture, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 150
        for i in range(30 * seconds):
            x, y = 2 * i % size[0], i % size[1]
            picture = np.ascontiguousarray(texture[y : y + size[1], x : x + size[0]])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def released(video: Path, where: dict, size: int, scale: float) -> np.ndarray:
    """One window: open, read all packets' times, get each frame, cut, resize."""
    frames = []
    top, left, h, w = (round(side * scale) for side in where["box"])
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        times = sorted(pts for pts, _ in packets)
        keys = np.array(sorted(pts for pts, is_key in packets if is_key))
        decoded, last = iter(()), times[0] - 1
        for moment in where["times"]:
            wanted = times[0] + round(moment / stream.time_base)
            key = keys[max(np.searchsorted(keys, wanted + 1, "right") - 1, 0)]
            if not frames or key > last:
                container.seek(int(key), stream=stream)
                decoded = container.decode(stream)
            frame = next(frame for frame in decoded if frame.pts >= wanted - 1)
            last = frame.pts
            crop = frame.to_ndarray(format="rgb24")[top : top + h, left : left + w]
            frames.append(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.stack(frames)


def measure(video: Path, folder: Path, rounds: int, gap: float) -> None:
    began = time.perf_counter()
    index = prepare(video, folder, threads=1)
    seconds = time.perf_counter() - began
    size = sum(segment.bytes for segment in index.segments)
    print(f"preparation: {index.duration / seconds:.1f} times real time on one thread, "
          f"{size / index.duration * 3600 / 1e9:.2f} GB per hour of video")  # fmt: skip
    windows = Windows(video=folder, frames=8, gap=gap, size=300)
    with av.open(str(video)) as container:
        scale = container.streams.video[0].height / index.height
    ours, theirs, differences = [], [], []
    with load(windows, rows=[0], batch_size=1, threads=1, buffer=1) as batches:
        next(batches)
        for position in range(rounds):
            began = time.perf_counter()
            frames = released(video, windows.describe(position), 300, scale)
            theirs.append(time.perf_counter() - began)
            differences.append(np.abs(frames.astype(int) - windows[position]["frames"]).mean())
            next(batches), next(batches)  # what was read ahead while the other was measured
            began = time.perf_counter()
            for _ in range(20):
                next(batches)
            ours.append((time.perf_counter() - began) / 20)
    print(f"mean difference of the pixels: {np.mean(differences):.1f} of 255")
    print(f"windows/s: released algorithm {1 / np.mean(theirs):.2f}, prepared {1 / np.mean(ours):.1f}")
    print(f"ratio: {np.mean(theirs) / np.mean(ours):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--4k", dest="large", action="store_true")
    parser.add_argument("--gap", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = (96, (3840, 2160)) if args.large else (40, (1280, 720))
        video = args.video or render(Path(folder) / "rendered.mp4", seconds, size)
        measure(video, Path(folder) / "prepared", args.rounds, args.gap)


if __name__ == "__main__":
    main()
