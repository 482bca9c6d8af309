"""What preparing a video costs, against its decoding, scaling and JPEG encoding alone, alternated in one run.

    python -m benchmarks.preparation [VIDEO] [--rounds N]

Without VIDEO it renders one of 40 s in 1920x1080. The baseline decodes in order with PyAV, scales the planes of the
frames that would be stored by area, encodes each as one JPEG, and does nothing else: no index, no check, no file. One
thread each. Then frames a second (of the video, not of the stored ones) with one thread and with two.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg

from benchmarks.loader import render
from data_prep.prepare import prepare
from ssljax.data.index import VideoIndex


def bare(video: Path, index: VideoIndex) -> int:
    """Decode all, scale and encode every nth; returns how many bytes that makes."""
    cv2.setNumThreads(1)
    size, every = 0, index.settings["every"]
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number % every:
                continue
            planes = []
            for plane, part in zip(frame.planes, (1, 2, 2), strict=True):
                full = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                wanted = (index.width // part, index.height // part)
                planes.append(cv2.resize(full[:, : plane.width], wanted, interpolation=cv2.INTER_AREA))
            size += len(simplejpeg.encode_jpeg_yuv_planes(*planes, quality=index.settings["quality"]))
    return size


def timed(work, *arguments, **options) -> tuple[object, float, float]:
    """(result, seconds of all threads, seconds on the clock)"""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work(*arguments, **options)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def measure(video: Path, folder: Path, rounds: int) -> None:
    ours, theirs, double = [], [], []
    with av.open(str(video)) as container:
        cut = min(60.0, container.duration / av.time_base / 8)  # short videos in enough segments for two threads
    for i in range(rounds):
        index, *seconds = timed(prepare, video, folder / f"one{i}", threads=1, segment_seconds=cut)
        ours.append(seconds)
        size, *seconds = timed(bare, video, index)
        theirs.append(seconds)
        _, *seconds = timed(prepare, video, folder / f"two{i}", threads=2, segment_seconds=cut)
        double.append(seconds)
    (cpu, wall), (bare_cpu, bare_wall), (_, double_wall) = (np.min(each, axis=0) for each in (ours, theirs, double))
    frames = (len(index.times) - 1) * index.settings["every"] + 1
    stored = sum(segment.bytes for segment in index.segments)
    print(f"{frames} frames, {len(index.times)} stored at {index.width}x{index.height}")
    print(f"{stored / index.duration * 3600 / 1e9:.2f} GB per hour of video, {stored / size:.3f} of whole JPEGs")
    print(f"frames/s: baseline {frames / bare_wall:.1f}, prepared {frames / wall:.1f} with one thread, "
          f"{frames / double_wall:.1f} with two ({wall / double_wall:.2f} times as fast)")  # fmt: skip
    print(f"largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"ratio: {cpu / bare_cpu:.2f} of the CPU time, {wall / bare_wall:.2f} of the time on the clock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = args.video or render(Path(folder) / "rendered.mp4", 40, (1920, 1080))
        measure(video, Path(folder), args.rounds)


if __name__ == "__main__":
    main()
