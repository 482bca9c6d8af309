"""Walking Tours, without a network: yt-dlp is replaced where it is called, by a module of the same class and errors."""

import functools
import hashlib
import http.server
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from videos import make_video

from data_prep import download, walking_tours
from data_prep.walking_tours import TOURS, Tour, main, table
from ssljax import cli
from ssljax.data.index import read_index
from ssljax.errors import InputError

# What we use of yt_dlp, with the behaviour of version 2026.10.26: a file grows as NAME.part and is renamed when it is
# whole; a failure is a DownloadError whose exc_info holds what caused it.
FAKE = """
import os, pathlib, sys, time

class _Utils:
    class YoutubeDLError(Exception): pass
    class DownloadError(YoutubeDLError):
        def __init__(self, msg, exc_info=None):
            super().__init__(msg)
            self.exc_info = exc_info
utils = _Utils()

class TransportError(Exception): pass

class YoutubeDL:
    def __init__(self, params): self.params = params
    def __enter__(self): return self
    def __exit__(self, *args): pass
    def extract_info(self, url, download=True):
        with open(os.environ["FAKE_CALLS"], "a") as calls: print(url, file=calls)
        if "unreachable" in url:
            raise utils.DownloadError("ERROR: no name", (TransportError, TransportError("no name"), None))
        if "removed" in url:
            raise utils.DownloadError("ERROR: [youtube] Video unavailable; please report", (None, None, None))
        name = self.params["outtmpl"]["default"] % {"format_id": "313", "ext": "mp4"}
        file = pathlib.Path(self.params["paths"]["home"]) / name
        part = file.with_name(file.name + ".part")
        whole = pathlib.Path(os.environ["FAKE_SOURCE"]).read_bytes()
        there = part.stat().st_size if part.exists() else 0
        with part.open("ab") as out:
            for end in range(there, len(whole), 1000):
                out.write(whole[end : end + 1000])
                out.flush()
                self.params["progress_hooks"][0]({"downloaded_bytes": end, "total_bytes": len(whole)})
                if os.environ.get("FAKE_PAUSE"):
                    time.sleep(60)
        part.rename(file)
        return {"duration": float(os.environ.get("FAKE_DURATION", 4)), "requested_downloads": [{"filepath": str(file)}]}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("source") / "street.mp4", 100)


@pytest.fixture
def fake(source, tmp_path, monkeypatch):
    """The list of videos becomes short ones; the addresses asked for are lines of the returned file."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "yt_dlp.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.delitem(sys.modules, "yt_dlp", raising=False)
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_SOURCE", str(source))
    (tmp_path / "calls").touch()
    tours = [
        Tour("venice", "https://there/watch?v=abc", 4.0),
        Tour("kuala-lumpur", "https://there/watch?v=def", 4.0),
        Tour("zurich", "https://removed/watch?v=ghi", 4.0),
        Tour("bangkok", "https://unreachable/watch?v=jkl", 4.0),
        Tour("wildlife", "https://unreachable/watch?v=mno", 4.0),
        Tour("istanbul", "https://there/watch?v=pqr"),
    ]
    monkeypatch.setattr(walking_tours, "TOURS", {tour.name: tour for tour in tours})
    yield tmp_path / "calls"
    sys.modules.pop("yt_dlp", None)


def test_the_list_is_of_ten_videos_with_nothing_invented(capsys):
    names = ["amsterdam", "bangkok", "chiang-mai", "istanbul", "kuala-lumpur"]
    names += ["singapore", "stockholm", "venice", "wildlife", "zurich"]
    assert list(TOURS) == names
    assert all(len(tour.url.removeprefix("https://www.youtube.com/watch?v=")) == 11 for tour in TOURS.values())
    assert len({tour.url for tour in TOURS.values()}) == 10
    assert main(["--list"]) == 0 and cli.main(["prepare", "walking-tours", "--list"]) == 0
    printed = capsys.readouterr().out
    assert printed == 2 * (table() + "\n")
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert "2 h 55 min" in lines["bangkok"] and "0 h 59 min" in lines["wildlife"] and "CC-BY" in lines["venice"]
    assert lines["venice"].count("unknown") == 2 and "unknown" in lines["bangkok"]


def test_fetched_checked_prepared_once(fake, source, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["Venice", "kuala_lampur", "--output", str(out), "--every", "10", "--short-side", "64"]
    assert main(command) == 0, capsys.readouterr().err
    for name in ("venice", "kuala-lumpur"):
        index = read_index(out / name)
        assert (len(index.times), index.width, index.settings["every"]) == (10, 64, 10)
        assert (out / ".downloads" / f"{name}.mp4").read_bytes() == source.read_bytes()
    assert sorted(file.name for file in (out / ".downloads").iterdir()) == [
        "checksums.json", "kuala-lumpur.mp4", "venice.mp4",
    ]  # fmt: skip
    entry = json.loads((out / ".downloads" / "checksums.json").read_text())["venice"]
    assert entry["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert entry["bytes"] == source.stat().st_size and entry["url"] == "https://there/watch?v=abc"

    shutil.rmtree(out / ".downloads")  # what is finished needs neither the file nor the network
    assert main(command) == 0 and len(fake.read_text().splitlines()) == 2
    assert "is finished" in capsys.readouterr().out
    assert main([*command, "--quality", "50"]) == 2
    assert "quality 80 instead of 50" in capsys.readouterr().err
    assert main([*command, "--blur", "os.path.join"]) == 2
    assert "blur None instead of ['os.path.join']" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others(fake, tmp_path, capsys):
    out = tmp_path / "out"
    names = ["zurich", "bangkok", "wildlife", "istanbul", "venice"]
    assert main([*names, "--output", str(out), "--every", "50"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: zurich: https://removed/watch?v=ghi could not be fetched ([youtube] Video unavailable): "
        "update yt-dlp, or give the file with --from",
        f"error: istanbul: {out}/.downloads/.istanbul.313.mp4 is 4 s long instead of between 0 h 59 min and "
        "2 h 55 min: it is cut short, or another video",
        "error: bangkok, wildlife: no network (no name): connect and run the same command again, "
        "or give files with --from",
    ]
    assert len(fake.read_text().splitlines()) == 5
    assert read_index(out / "venice").duration == 4
    assert sorted(file.name for file in out.iterdir()) == [".downloads", "venice"]
    assert sorted(file.name for file in (out / ".downloads").iterdir()) == ["checksums.json", "venice.mp4"]


def test_the_duration_that_the_site_tells(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_DURATION", "9")
    assert main(["venice", "--output", str(tmp_path / "out")]) == 2
    assert "is 4 s long instead of the 9 s that the site tells" in capsys.readouterr().err
    assert not list((tmp_path / "out" / ".downloads").iterdir()) and not (tmp_path / "out" / "venice").exists()


def test_a_changed_file_is_refused(fake, source, tmp_path, capsys):
    keep = tmp_path / "keep"
    command = ["venice", "--output", str(tmp_path / "out"), "--keep", str(keep)]
    assert main([*command, "--download-only"]) == 0
    assert not (tmp_path / "out" / "venice").exists()
    with (keep / "venice.mp4").open("ab") as file:
        file.write(b"more")
    assert main(command) == 2
    assert f"venice: {keep}/venice.mp4 has changed" in capsys.readouterr().err
    assert main(["venice", "--output", str(tmp_path / "other"), "--from", str(keep)]) == 2
    assert "has changed" in capsys.readouterr().err
    shutil.copy(source, keep / "venice.mp4")
    assert main([*command, "--every", "50"]) == 0
    assert len(fake.read_text().splitlines()) == 1


def test_a_known_checksum_is_compared(source, tmp_path):
    tour = Tour("venice", "https://there/watch?v=abc", 4.0, sha256="0" * 64)
    with pytest.raises(InputError, match=f"not {'0' * 64}"):
        walking_tours.check_sum(tour, source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_from_a_folder(fake, source, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(source, folder / "A walk in Venice [abc].mp4")
    shutil.copy(source, folder / "Kuala_Lampur.mp4")
    shutil.copy(source, folder / "zurich.mp4.part")
    command = ["venice", "kuala-lumpur", "zurich", "--output", str(tmp_path / "out"), "--from", str(folder)]
    assert main([*command, "--every", "50", "--shard", "1/1"]) == 2
    assert capsys.readouterr().err == (
        f"error: zurich: {folder} holds no file of it: name it zurich.mp4 (or .webm, .mkv, .mov)\n"
    )
    assert len(read_index(tmp_path / "out" / "venice").times) == len(
        read_index(tmp_path / "out" / "kuala-lumpur").times
    )
    assert not fake.read_text()
    shutil.copy(source, folder / "venice.webm")
    with pytest.raises(InputError, match="leave one of them"):
        walking_tours.find(walking_tours.TOURS["venice"], folder)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["atlantis", "--output", "out"], "atlantis is none of the videos: amsterdam, bangkok, chiang-mai, istanbul"),
        (["venice"], "--output DIR is missing"),
        (["--output", "out", "--from", "nowhere"], "--from nowhere is not a folder"),
        (["--output", "out", "--shard", "1/2"], "--shard needs --from FOLDER"),
        (["--output", "out", "--blur", "hats"], "--blur hats must be faces, plates, both or package.module.function"),
    ],
)
def test_one_sentence_for_bad_input(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_yt_dlp(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    assert main(["venice", "zurich", "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: venice, zurich: downloading needs yt-dlp") and printed.count("\n") == 1
    assert "pip install 'ssljax[download]'" in printed and not (tmp_path / "out").exists()


def test_killed_while_fetching_goes_on(fake, source, tmp_path, monkeypatch):
    program = """
        import sys
        from data_prep import walking_tours
        walking_tours.TOURS = {"venice": walking_tours.Tour("venice", "https://there/watch?v=abc", 4.0)}
        sys.exit(walking_tours.main(sys.argv[1:]))
    """
    arguments = ["--output", str(tmp_path / "out"), "--every", "50"]
    monkeypatch.setenv("FAKE_PAUSE", "1")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}:{Path(walking_tours.__file__).parents[1]}")
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), *arguments])
    part = tmp_path / "out" / ".downloads" / ".venice.313.mp4.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [file.name for file in (tmp_path / "out" / ".downloads").iterdir()] == [part.name]
    assert walking_tours.find(walking_tours.TOURS["venice"], part.parent) is None
    monkeypatch.delenv("FAKE_PAUSE")
    assert main(["venice", *arguments]) == 0
    assert (part.parent / "venice.mp4").read_bytes() == source.read_bytes() and not part.exists()
    assert len(read_index(tmp_path / "out" / "venice").times) == 2


def test_the_real_yt_dlp(source, tmp_path):
    """From a server on this machine: the class, its options, its result and its errors are what we take them for."""
    pytest.importorskip("yt_dlp", reason="needs the extra `download`")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(source.parent))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        seen = []
        file = download.fetch("venice", f"{address}/street.mp4", tmp_path, lambda *args: seen.append(args))
        assert file == tmp_path / "venice.mp4" and file.read_bytes() == source.read_bytes()
        assert [path.name[:8] for path, _ in seen] == [".venice."]
        with pytest.raises(InputError, match="could not be fetched.*404"):
            download.fetch("zurich", f"{address}/none.mp4", tmp_path, lambda *args: None)
        server.shutdown()
    with pytest.raises(download.Unable, match="no network"):
        download.fetch("zurich", f"{address}/street.mp4", tmp_path, lambda *args: None)
    assert [file.name for file in tmp_path.iterdir()] == ["venice.mp4"]
