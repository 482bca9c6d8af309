"""One video from the network to a file, through yt-dlp."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssljax.errors import InputError

# The best picture up to 2160 lines, at the frame rate that it has. No sound: nothing reads it, and joining it to the
# picture takes FFmpeg's program. Video without HDR first: it needs no tone mapping.
FORMAT = "bv[height<=?2160][dynamic_range=?SDR]/bv[height<=?2160]/bv*[height<=?2160]"


class Unable(InputError):
    """No video can be downloaded: yt-dlp is missing, or the network."""


class _Quiet:
    """Takes yt-dlp's lines: what matters comes as an exception."""

    def debug(self, line: str) -> None:
        pass

    warning = error = info = debug


def fetch(name: str, url: str, folder: Path, check: Callable[[Path, float | None], None]) -> Path:
    """Download a video, or go on with a download that was stopped, to `folder`/NAME.EXTENSION; its path.

    `check` is given the whole file and the duration that the site tells, and raises InputError if that is not the
    video: the file goes then. InputError if this video cannot be had, Unable if that is so for every one.
    """
    try:
        import yt_dlp
    except ImportError as error:
        raise Unable(f"downloading needs yt-dlp ({error}): pip install 'ssljax[download]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(unit="B", unit_scale=True, desc=name, disable=None) as bar:
        options = {
            "format": FORMAT,
            "format_sort": ["res:2160", "fps"],
            "paths": {"home": str(folder)},
            # The format is in the name, so that no download goes on in another: what the site offers may change.
            "outtmpl": {"default": f".{name}.%(format_id)s.%(ext)s"},
            "noplaylist": True,
            "quiet": True,
            "noprogress": True,
            "logger": _Quiet(),
            "progress_hooks": [lambda told: _advance(bar, told)],
        }
        try:
            with yt_dlp.YoutubeDL(options) as loader:
                told = loader.extract_info(url, download=True)
        except yt_dlp.utils.YoutubeDLError as error:
            raise _reason(error, url) from error
    file = Path(told["requested_downloads"][0]["filepath"])
    try:
        check(file, told.get("duration"))
    except InputError:
        file.unlink()  # or the next run would take it for a finished download
        raise
    return file.replace(folder / f"{name}{file.suffix}")  # nothing half-written has this name


def _advance(bar: Any, told: dict) -> None:
    bar.total = told.get("total_bytes") or told.get("total_bytes_estimate")
    bar.update((told.get("downloaded_bytes") or bar.n) - bar.n)


def _reason(error: Exception, url: str) -> InputError:
    """What to tell: yt-dlp wraps the failure that started it, and says `ERROR:` and how to report it."""
    inner: BaseException | None = error
    while inner is not None:
        if type(inner).__name__ == "TransportError":
            return Unable(f"no network ({inner}): connect and run the same command again, or give files with --from")
        inner = (getattr(inner, "exc_info", None) or (None, None))[1] or inner.__cause__
    text = str(error).removeprefix("ERROR: ").split(";")[0].splitlines()[0]
    return InputError(f"{url} could not be fetched ({text}): update yt-dlp, or give the file with --from")
