"""Photos found in folders, and the names of their results, which never meet."""

import json
import os
import pathlib
import sys

from app import inputs, photos
from app.cli import InputError

import pytest
from conftest import ROOT, start_process
from pictures import KINDS, PICTURE, save
from PIL import Image


def found(*arguments):
    """The paths of what is found, below the first argument."""
    items = inputs.find_all(arguments, arguments[0] / "output", inputs.Counts())
    return [str(item.path.relative_to(arguments[0])) for item in items]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_found(kind, tmp_path):
    path = KINDS[kind](tmp_path / kind)
    assert found(tmp_path) == [path.name]


def test_photos_of_a_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "._b.png").write_text("left by a Mac")
    (tmp_path / "paper.pdf").write_text("Pillow can write such, but it is no photo")
    os.mkfifo(tmp_path / "pipe")  # opening it blocks forever
    (tmp_path / ".thumbnails").mkdir()
    save(tmp_path / ".thumbnails" / "d")
    with pytest.raises(InputError, match="no picture in this folder or its subfolders"):
        inputs.find(tmp_path, inputs.Counts(), False, set())
    for name in ("b", "A", "c"):
        save(tmp_path / name)
    (tmp_path / "c.png").rename(tmp_path / "c.dat")  # still a picture
    (tmp_path / "broken.jpeg").write_text("by its ending a picture, so it is reported")
    (tmp_path / "phone.RAF").write_text("a photo that Pillow cannot read, to be reported rather than passed over")
    assert found(tmp_path) == ["A.png", "b.png", "broken.jpeg", "c.dat", "phone.RAF"]


def test_subfolders_links_and_the_output_folder(tmp_path, capsys):
    """Each real folder is searched once, links after folders; the results of an earlier run are no photos."""
    for folder in ("DCIM/101CANON", "DCIM/100CANON", "DCIM/output", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        save(tmp_path / folder / "a")
    dcim = tmp_path / "DCIM"
    names([dcim / "100CANON"], dcim / "output")
    (dcim / "100CANON" / "loop").symlink_to(dcim)
    (dcim / "1-more").symlink_to(tmp_path / "elsewhere")
    (dcim / "again").symlink_to(tmp_path / "elsewhere")
    (dcim / "100CANON" / "b.png").symlink_to(dcim / "100CANON" / "a.png")
    expected = ["1-more/a.png", "100CANON/a.png", "100CANON/b.png", "101CANON/a.png"]
    assert found(dcim, dcim / "100CANON") == expected
    lines = dict.fromkeys(capsys.readouterr().out.splitlines())
    links = [
        f"{dcim / name}: a link to a folder that is searched already, left out" for name in ("again", "100CANON/loop")
    ]
    assert sorted(lines) == sorted([*links, f"{dcim / 'output'}: results of an earlier run, left out"])
    (dcim / "101CANON").chmod(0)
    counts = inputs.Counts()
    inputs.find_all([dcim], dcim / "output", counts)
    assert counts.failed == (0 if os.geteuid() == 0 else 1)
    (dcim / "101CANON").chmod(0o755)


def names(arguments, output):
    items = inputs.give_names(inputs.find_all(arguments, output, inputs.Counts()), output)
    return {str(item.path): item.name for item in items}


def test_names_never_meet_and_stay(tmp_path, capsys):
    """Of one stem, in two folders, differing in case, in two forms of Unicode, cut to a length; found in any order."""
    output = tmp_path / "output"
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first = [folders[0] / "cat.jpg", folders[1] / "cat.jpg", folders[2] / "cat-2.jpg"]
    second = [folders[0] / "Cat.png", folders[0] / "caf\u00e9.png", folders[1] / "cafe\u0301.png"]
    second += [folders[0] / f"{'x' * 190}{end}.png" for end in "yz"]
    for path in first + second:
        Image.fromarray(PICTURE).save(path)
    given = names(first, output)
    assert list(given.values()) == ["cat", "cat-3", "cat-2"]
    assert "names with a number, because other photos have theirs: 1 (cat-3 for " in capsys.readouterr().out
    for arguments in (first + second, folders, list(reversed(first + second)), folders[1:]):
        later = names(arguments, output)
        assert all(later.get(path, name) == name for path, name in given.items())
        given |= later
    keys = [inputs._comparable(name) for name in given.values()]
    assert len(set(keys)) == len(keys) == 8
    assert given[str(second[0])] == "Cat-4" and all(len(os.fsencode(name)) < 200 for name in given.values())
    (output / inputs.NAMES).write_bytes((output / inputs.NAMES).read_bytes() + b'\n5\nnull\n["p"]\n\xff\n["/cut')
    assert names(first, output) == {path: given[path] for path in map(str, first)}
    assert names([tmp_path], output)[str(folders[1] / "cat.jpg")] == "cat-3"


def test_names_are_cut_between_letters():
    for name in ("a" + "\u65e5" * 70, "\udcff" * 200, "x" * 300):
        short = inputs._cleaned(pathlib.Path(f"{name}.jpg"))
        assert name.startswith(short) and len(os.fsencode(short)) <= 180
    assert inputs._cleaned(pathlib.Path("a" + "\u65e5" * 70 + ".jpg")) == "a" + "\u65e5" * 59


def test_videos_in_folders(tmp_path):
    """By their ending or how they start; a pipe, whatever it is called, is no video."""
    for name, content in {
        "film.MXF": b"",
        "film": b"\0\0\0\x20ftypisom",
        "old": b"RIFF\0\0\0\0AVI LIST",
        "tv.ts": b"\x47" + b"\0" * 187 + b"\x47",
        "code.ts": b"export const x = 1;\n" * 20,
        "notes": b"ftyp",
    }.items():
        (tmp_path / name).write_bytes(content)
    save(tmp_path / "photo")
    os.mkfifo(tmp_path / "pipe.mp4")
    items = inputs.find_all([tmp_path], tmp_path / "output", inputs.Counts(), with_videos=True)
    assert [item.path.name for item in items] == ["film", "film.MXF", "old", "photo.png", "pipe.mp4", "tv.ts"]
    assert not inputs.is_video(tmp_path / "pipe.mp4") and inputs.is_video(tmp_path / "film.MXF")
    with pytest.raises(InputError, match="not a file"):
        photos.read(tmp_path / "pipe.mp4")


def test_names_keep_the_tree(tmp_path):
    for folder in ("100CANON", "101CANON/x.y"):
        (tmp_path / "DCIM" / folder).mkdir(parents=True)
        save(tmp_path / "DCIM" / folder / "IMG_1.2")
    expected = ["100CANON/IMG_1", "101CANON/x.y/IMG_1"]
    assert list(names([tmp_path / "DCIM"], tmp_path / "output").values()) == expected


def test_a_link_has_results_of_its_own(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "below").mkdir()
    twice = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "below" / ".." / "a.png"]
    assert names(twice, tmp_path / "output") == {str(tmp_path / f"{name}.png"): name for name in "ab"}


NAME_ALL = """
import pathlib, sys
from app import inputs, photos
paths = [pathlib.Path(sys.argv[1], str(number), "IMG.jpg") for number in range(200)]
items = [inputs.Item(path, "IMG") for path in paths[int(sys.argv[2]) :: 4]]
inputs.give_names(items, pathlib.Path(sys.argv[3]))
"""


def test_runs_at_the_same_time_agree_on_names(tmp_path):
    program = [sys.executable, "-c", NAME_ALL, tmp_path]
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT / "recipes")}}
    processes = [start_process([*program, part, tmp_path / "output"], **options) for part in range(4)]
    assert [process.communicate(timeout=120)[1] for process in processes] == [""] * 4
    lines = (tmp_path / "output" / inputs.NAMES).read_text().splitlines()
    assert len(dict(map(json.loads, lines))) == 200 == len({json.loads(line)[1] for line in lines})


def test_reading_continues_after_a_bad_photo(tmp_path, capfd):
    good = [save(tmp_path / name) for name in ("a", "b", "c", "long" * 60)]
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    counts = inputs.Counts()
    items = inputs.find_all([tmp_path, tmp_path / "nowhere", good[0]], tmp_path / "output", counts)
    read = [item for item, *_ in inputs.read_all(items, counts)]
    assert [item.path for item in read] == good
    assert len(os.fsencode(f".123456-{read[-1].name}_instances.png")) < 255
    counts.done = len(good)
    assert (counts.failed, counts.exit_status()) == (3, 1)
    lines = capfd.readouterr().err.splitlines()
    for line, words in zip(lines, ("nowhere: no such file", "bad.png: not a picture", "loop.jpg: "), strict=True):
        assert words in line


@pytest.mark.parametrize("place", ["photos", "photos/below", "."])
def test_photos_are_never_overwritten(tmp_path, place):
    """Results go neither beside a photo that is worked on, nor beside one of its subfolders."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    save(tmp_path / "photos" / "cat")
    save(tmp_path / "photos" / "below" / "dog")
    save(tmp_path / "photos" / "below" / "cat")
    arguments = [tmp_path / "photos"] if place != "." else [tmp_path / "photos" / "below"]
    if place == ".":
        arguments.append(save(tmp_path / "horse"))
    with pytest.raises(InputError, match=r"--output .* holds photos"):
        inputs.find_all(arguments, tmp_path / place, inputs.Counts())
