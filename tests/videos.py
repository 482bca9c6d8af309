"""Small videos for the tests, with the frame's number in its pixels."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ssljax.data.index import read_index
from ssljax.data.records import Records

BLOCKS = 4  # 4x4 black or white blocks: 16 bits


def picture(number: int, width: int, height: int) -> np.ndarray:
    """RGB uint8 [height, width, 3]: blocks that code `number`, with a texture inside that moves and changes."""
    bits = [(number >> i) & 1 for i in range(BLOCKS**2)]
    code = np.array(bits, np.float64).reshape(BLOCKS, BLOCKS)
    y, x = np.mgrid[:height, :width]
    base = code[y * BLOCKS // height, x * BLOCKS // width]
    wave = (
        np.sin((x + 3 * number) / 5)
        + np.cos((y - 2 * number) / 7)
        + np.random.default_rng(number).normal(0, 0.5, (height, width))
    )
    gray = 40 + 160 * base + 10 * wave
    return np.clip(np.stack([gray, gray * 0.9, gray * 0.8 + 20], -1), 0, 255).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number coded in a whole frame [h, w, 3], whatever its size."""
    h, w = frame.shape[0] // BLOCKS, frame.shape[1] // BLOCKS
    blocks = frame[: h * BLOCKS, : w * BLOCKS, 1].reshape(BLOCKS, h, BLOCKS, w)
    means = blocks[:, h // 4 : 3 * h // 4, :, w // 4 : 3 * w // 4].mean((1, 3))
    return int(sum(1 << i for i, mean in enumerate(means.flat) if mean > 108))


def make_video(
    path: Path,
    frames: int = 100,
    *,
    rate: int = 25,
    gop: int = 20,
    size: tuple[int, int] = (128, 128),
    times: list[float] | None = None,
    codec: str = "libx264",
    options: dict | None = None,
    container_options: dict | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """A video whose frame i shows number i, at `times[i]` seconds or every 1/rate, in GOPs of `gop`."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 12800)
        stream.gop_size = gop
        quiet = {"preset": "veryfast", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:log-level=-1"}
        stream.options = quiet | (options or {}) if codec == "libx264" else options or {}
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24").reformat(format=pixels)
            frame.pts = round((times[i] if times else i / rate) * 12800)
            frame.time_base = Fraction(1, 12800)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with a sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for i in range(int(seconds * 16000 / 1024)):
            wave = np.sin(np.arange(1024 * i, 1024 * (i + 1)) / 20).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def flip(folder, number):
    """Flip a bit in the middle of a stored frame of a prepared video."""
    file = folder / "frames-00000.array_record"
    data = bytearray(file.read_bytes())
    record = Records(read_index(folder)).stored(number)
    place = data.find(record[-200:])  # a record may be broken by the header of a 64 KiB block, its end seldom is
    assert place > 0
    data[place + 100] ^= 4
    file.write_bytes(data)
