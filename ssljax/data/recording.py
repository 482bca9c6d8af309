"""What decides how a video becomes records: which of its frames are stored, how large and how well."""

from dataclasses import dataclass

import av

from ssljax.data.timeline import Timeline, open_video
from ssljax.data.video import decode
from ssljax.errors import InputError

RATE = 6.0  # stored frames a second by default: a twelfth of a gigabyte a minute at 540 pixels, divides the usual gaps


@dataclass(frozen=True)
class Settings:
    """What decides the stored bytes.

    every: store every so many frames; None: about 6 a second. chroma: 420 stores colour at half the resolution.
    """

    every: int | None = None
    short_side: int = 540
    quality: int = 80
    chroma: int = 420

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"--every {self.every} must be at least 1")
        if self.short_side < 16:
            raise InputError(f"--short-side {self.short_side} must be at least 16 pixels")
        if not 1 <= self.quality <= 100:
            raise InputError(f"--quality {self.quality} must lie between 1 and 100")
        if self.chroma not in (420, 444):
            raise InputError(f"--chroma {self.chroma} must be 420 (half the colour resolution) or 444")


def every(timeline: Timeline) -> int:
    """The default: store about 6 frames a second (30 fps: every 5th; 24 or 25: every 4th; 60: every 10th)."""
    rate = (len(timeline.pts) - 1) / timeline.seconds(timeline.pts[-1])
    return max(1, round(rate / RATE))


def first_frame(timeline: Timeline) -> tuple[av.VideoFrame, float]:
    """(the first frame that decodes, the width-to-height ratio of its pixels)."""
    container, stream = open_video(timeline.path)
    ratio = stream.sample_aspect_ratio
    container.close()
    kept: list[av.VideoFrame] = []

    def keep(frame: av.VideoFrame) -> bytes:
        kept.append(frame)
        return b""

    for g, key in enumerate(timeline.keys):
        for _ in decode(timeline, g, g + 1, {int(key)}, keep, lambda: bool(kept)):
            pass
        if kept:
            return kept[0], float(ratio) if ratio else 1.0
    raise InputError(f"no frame of {timeline.path} can be decoded: it is damaged, or its codec is not supported")


def truncated(timeline: Timeline, sound: float, instead: str) -> InputError:
    """The error of a video of which only the first `sound` seconds can be read; `instead` says what can be done."""
    promised = max(timeline.declared or 0.0, timeline.duration)
    return InputError(
        f"{timeline.path} is cut short or damaged: only the first {sound:.2f} s of {promised:.2f} s can be read; "
        f"fetch it again, or {instead}"
    )
