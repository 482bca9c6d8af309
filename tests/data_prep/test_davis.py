"""Preparing DAVIS, from folders and archives, whole and broken."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from masked import drawn, make_davis, write_mask
from PIL import Image

from data_prep.davis import main
from ssljax.data.davis import MaskedSequences, decode_mask
from ssljax.errors import InputError


@pytest.fixture
def raw(tmp_path):
    return make_davis(tmp_path / "DAVIS", {"bear": drawn(0), "ant": drawn(1, objects=1)})


def told(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    return error


def prepared(raw, output, *arguments):
    assert main([str(raw), "--output", str(output), *arguments]) == 0
    return MaskedSequences(output)


def test_a_folder_without_lists_is_taken_whole(raw, tmp_path, capsys):
    data = prepared(raw, tmp_path / "out")
    assert "2 sequences, 14 frames of 144x96, 3 objects, masks of all" in capsys.readouterr().out
    assert [(s.name, s.objects, s.binary, len(s.frames)) for s in data.sequences] == [
        ("ant", 1, False, 7),
        ("bear", 2, False, 7),
    ]
    frames, masks = data.read(data.sequences[1])
    assert frames[2] == (raw / "JPEGImages/480p/bear/00002.jpg").read_bytes()
    np.testing.assert_array_equal(decode_mask(masks[2], binary=False), drawn(0)[2])


def test_lists_of_2016_and_2017_choose_the_sequences(raw, tmp_path):
    lists = raw / "ImageSets"
    for place, text in {
        "480p/val.txt": "".join(
            f"/JPEGImages/480p/ant/{t:05d}.jpg /Annotations/480p/ant/{t:05d}.png\n" for t in range(7)
        ),
        "2017/train.txt": "bear\nant\n",
    }.items():
        (lists / place).parent.mkdir(parents=True, exist_ok=True)
        (lists / place).write_text(text)
    names = lambda data: [sequence.name for sequence in data.sequences]  # noqa: E731
    assert names(prepared(raw, tmp_path / "a")) == ["ant"]
    assert names(prepared(raw, tmp_path / "b", "--set", "2017/train")) == ["bear", "ant"]
    (lists / "2017/val.txt").write_text("bear\n")
    assert names(prepared(raw, tmp_path / "c")) == ["bear"]


def test_an_archive_is_the_same_as_its_folder(raw, tmp_path):
    archive = tmp_path / "DAVIS.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in raw.rglob("*"):
            file.write(path, path.relative_to(tmp_path))
        file.writestr("__MACOSX/DAVIS/JPEGImages/480p/ant/._00000.jpg", b"x")
    assert prepared(archive, tmp_path / "a").checksum == prepared(raw, tmp_path / "b").checksum
    assert prepared(tmp_path / "DAVIS", tmp_path / "a").checksum  # again: what is there already stays


def test_masks_of_other_kinds(tmp_path):
    """0 and 255 in grey, in one bit and in three equal colours; 255 among numbers is nothing."""
    masks = drawn(0, objects=1, frames=4)
    raw = make_davis(tmp_path / "raw", {"one": masks}, binary=True)
    place = raw / "Annotations/480p/one"
    Image.fromarray(masks[1] * 255).convert("1").save(place / "00001.png")
    Image.fromarray(masks[2] * 255).convert("RGB").save(place / "00002.png")
    data = prepared(raw, tmp_path / "a")
    (sequence,) = data.sequences
    assert sequence.binary and sequence.objects == 1
    for mask, png in zip(masks, data.read(sequence)[1], strict=True):
        np.testing.assert_array_equal(decode_mask(png, binary=True), mask)
    void = np.where(drawn(0) == 1, 255, np.minimum(drawn(0), 1)).astype(np.uint8)
    (sequence,) = prepared(make_davis(tmp_path / "v", {"one": void}), tmp_path / "b").sequences
    assert not sequence.binary and sequence.objects == 1


def test_files_changed_or_lost_after_the_preparation(raw, tmp_path):
    data = prepared(raw, tmp_path / "out")
    (tmp_path / "out/frames/ant/00003.jpg").write_bytes(b"other")
    with pytest.raises(InputError, match="Files of ant in .* have changed"):
        data.read(data.sequences[0])
    (tmp_path / "out/masks/bear/00001.png").unlink()
    with pytest.raises(InputError, match="bear/00001.png is missing"):
        MaskedSequences(tmp_path / "out")
    (tmp_path / "out/index.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(InputError, match="holds no sequences with masks"):
        MaskedSequences(tmp_path / "out")
    with pytest.raises(InputError, match="index.json is missing"):
        MaskedSequences(tmp_path / "nowhere")


def lose_mask(raw):
    (raw / "Annotations/480p/bear/00004.png").unlink()


def lose_masks(raw):
    for path in sorted((raw / "Annotations/480p/bear").iterdir())[1:]:
        path.unlink()


def lose_first_mask(raw):
    (raw / "Annotations/480p/bear/00000.png").unlink()


def lose_frames(raw):
    shutil.rmtree(raw / "JPEGImages/480p/bear")
    (raw / "ImageSets/2017").mkdir(parents=True)
    (raw / "ImageSets/2017/val.txt").write_text("ant\nbear\n")


def other_mask_size(raw):
    write_mask(raw / "Annotations/480p/bear/00002.png", drawn(0)[2][:-1])


def truncate_frame(raw):
    path = raw / "JPEGImages/480p/bear/00005.jpg"
    path.write_bytes(path.read_bytes()[:-500])


def break_mask(raw):
    (raw / "Annotations/480p/bear/00005.png").write_bytes(b"\x89PNG")


def colour_mask(raw):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 144, 3), np.uint8)).save(
        raw / "Annotations/480p/bear/00001.png"
    )


def empty_first_mask(raw):
    write_mask(raw / "Annotations/480p/bear/00000.png", np.zeros((96, 144), np.uint8))


def gap_in_numbers(raw):
    write_mask(raw / "Annotations/480p/bear/00000.png", drawn(0)[0] // 2 * 3)


def more_objects(raw):
    write_mask(raw / "Annotations/480p/bear/00006.png", drawn(0)[6] * 2)


def too_short(raw):
    for t in range(2, 7):
        (raw / f"Annotations/480p/bear/{t:05d}.png").unlink()
        (raw / f"JPEGImages/480p/bear/{t:05d}.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_mask, "bear: 00004.jpg has no mask"),
        (lose_masks, "the first frame alone has a mask (give --first-only"),
        (lose_frames, "bear: it has no frames"),
        (other_mask_size, "bear/00002.png has 144x95 pixels, the first frame 144x96"),
        (truncate_frame, "bear/00005.jpg cannot be decoded"),
        (break_mask, "bear/00005.png cannot be read"),
        (colour_mask, "it has colours"),
        (empty_first_mask, "bear/00000.png has no object"),
        (gap_in_numbers, "not 1, 2, ... without gaps"),
        (more_objects, "bear/00006.png has the object 4, which the first mask does not show"),
        (too_short, "it has 2 frames, of which the first and the last are not scored"),
    ],
)
def test_what_does_not_fit_is_named(raw, tmp_path, capsys, damage, message):
    damage(raw)
    assert message in told(capsys, raw, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_first_masks_alone(raw, tmp_path, capsys):
    lose_masks(raw)
    data = prepared(raw, tmp_path / "out", "--first-only")
    assert [sequence.scored for sequence in data.sequences] == [False, False]
    assert "masks of the first ones" in capsys.readouterr().out
    lose_first_mask(raw)
    assert "00000.jpg, has no mask" in told(capsys, raw, "--output", tmp_path / "b", "--first-only")


def test_bad_arguments(raw, tmp_path, capsys):
    out = ("--output", tmp_path / "out")
    assert "does not exist" in told(capsys, tmp_path / "nothing", *out)
    assert "has no folder JPEGImages" in told(capsys, raw / "Annotations", *out)
    assert "give --resolution, one of 480p" in told(capsys, raw, *out, "--resolution", "1080p")
    assert "has no ImageSets/2017/val.txt" in told(capsys, raw, *out, "--set", "2017/val")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    assert "no whole zip archive" in told(capsys, tmp_path / "broken.zip", *out)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "holds something else" in told(capsys, raw, *out)
    prepared(raw, tmp_path / "a")
    lose_mask(raw)
    (raw / "JPEGImages/480p/bear/00004.jpg").unlink()
    assert "was prepared from other files" in told(capsys, raw, "--output", tmp_path / "a")
