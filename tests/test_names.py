"""Names of classes in pictures and tables: any script, and letters that break lines or are not seen."""

import warnings

from app import cli
from app.detect import instances, label_map
from common import masks, plots

import detectors
import mask_rcnn_hub
import numpy as np
import pytest
from fontTools import fontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

CAT, DOG = "\u732b", "\u72ac"  # in Chinese
ODD = [
    "cat\nfelis",
    "a\tb\r\n c",
    "a\u2028b\u2029c",
    "\x00\x07\x1bcat",
    "ca\u200bt\u202e\u2066",
    "\ufeff",
    "",
    " \n ",
    "\ud800",
]


def font_with(path, letters, family):
    """Writes a font that has a black square for each of these letters."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    names = {ord(letter): f"u{ord(letter):x}" for letter in letters}
    builder = fontBuilder.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: square for name in (".notdef", *names.values())})
    builder.setupHorizontalMetrics({name: (1000, 100) for name in (".notdef", *names.values())})
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def installed(monkeypatch):
    """The files of the installed fonts, a list to change."""
    paths = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    known = list(font_manager.fontManager.ttflist)
    masks.font_with.cache_clear()
    yield paths
    masks.font_with.cache_clear()
    font_manager.fontManager.ttflist[:] = known


def plate(name, score=0.9):
    """What is drawn for an object of this name, bool [H, W]: black letters."""
    photo = np.full((400, 600, 3), 255, np.uint8)
    found = instances.Instance(7, name, score, (0.2, 0.1, 0.9, 0.9), np.zeros((9, 9), bool), 80, 60)
    picture = instances.overlay(photo, [found])
    assert picture.shape == photo.shape
    return (picture[65:76, 62:] < 60).all(-1)  # the plate above the box, without its frame


def test_a_name_is_drawn_with_a_font_that_has_its_letters(installed, tmp_path):
    without = plate(CAT)
    np.testing.assert_array_equal(without, plate("class 7"))  # no font has the letter
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    installed += [str(tmp_path / "damaged.ttf"), str(tmp_path / "nowhere.ttf")]
    installed.append(font_with(tmp_path / "LastResort.ttf", CAT + DOG, "Boxes"))
    installed.append(font_with(tmp_path / "dogs.ttf", DOG, "Dogs"))
    masks.font_with.cache_clear()
    np.testing.assert_array_equal(plate(CAT), without)
    installed.append(font_with(tmp_path / "z.ttf", CAT + DOG, "Both"))
    masks.font_with.cache_clear()
    assert masks.lettering(CAT, "") == (CAT, installed[-1])
    drawn = plate(CAT)
    square = drawn.any(0).argmax()  # the first column of the black square
    assert drawn[:, square : square + 8].sum() > 60 and (drawn != without).any()
    # Latin letters in the same name keep their own font: "a" and the score are where they are without the square.
    mixed = plate(f"a{CAT}")
    assert mixed.sum() > drawn.sum()
    np.testing.assert_array_equal(plate("a", None)[:, :6], mixed[:, :6])


def test_latin_names_search_for_no_font(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("searched"))
    for name in ("cat", "Kätzchen", "кошка", "γάτα", "قط", "mačka"):
        assert masks.lettering(name, "") == (name, None)
        assert plate(name).sum() > 20


@pytest.mark.parametrize(
    "name", [*ODD, "x" * 5000, "\u0e41\u0e21\u0e27", "\u092c\u093f\u0932\u094d\u0932\u0940", "\U0001f408", "\U0010ffff"]
)
def test_odd_names_break_nothing(installed, name, tmp_path):
    found = plate(name)
    assert found.sum() > 20  # something is written
    counted = instances.summary([instances.Instance(7, name, 0.9, (0, 0, 1, 1), np.ones((1, 1), bool), 0, 0)])
    assert counted.isprintable() and 3 <= len(counted) < 40
    label = np.zeros((8, 8), np.uint8)
    with warnings.catch_warnings(action="error"):  # of matplotlib, for a letter without a glyph
        example = masks.Example(np.zeros((8, 8, 3), np.uint8), label, label)
        masks.mosaic(tmp_path / "mosaic.png", [example], [name, "b"], title=f"run {name}"[:300])
    with Image.open(tmp_path / "mosaic.png") as picture:
        assert picture.size[0] > 500


def test_names_in_one_line():
    shown = ["cat felis", "a b c", "a b c", "cat", "cat", "", "", "", ""]
    assert [masks.one_line(name) for name in ODD] == shown
    assert masks.one_line("x" * 25) == "x" * 21 + "..." and masks.one_line("x" * 24) == "x" * 24
    assert masks.one_line(f"{CAT}\u3000{DOG}\u00a0") == f"{CAT} {DOG}"


def test_a_legend_is_drawn_with_a_font_that_has_its_letters(installed, tmp_path):
    def legend(names):
        label = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
        example = masks.Example(np.zeros((8, 8, 3), np.uint8), label, label)
        with warnings.catch_warnings(action="error"):
            masks.mosaic(tmp_path / "mosaic.png", [example], names, title="a run")
        return np.asarray(Image.open(tmp_path / "mosaic.png").convert("RGB"))

    np.testing.assert_array_equal(legend([CAT, "b"]), legend(["class 0", "b"]))
    installed.append(font_with(tmp_path / "cats.ttf", CAT, "Cats in the tests"))
    masks.font_with.cache_clear()
    drawn = legend([CAT, "b"])
    assert drawn.shape == legend(["x", "b"]).shape
    assert (drawn[-40:] < 60).all(-1).sum() > (legend(["x", "b"])[-40:] < 60).all(-1).sum() + 50  # the square
    assert "Cats in the tests" not in str(masks.matplotlib.rcParams["font.family"])


def test_a_label_map_with_a_line_break(command_line, tmp_path):
    scenes = detectors.drawn_scenes(tmp_path / "photos", 1)
    model = detectors.save(tmp_path / "model", scenes)
    labels = tmp_path / "labels.pbtxt"
    label_map.write(labels, {17: "cat\nfelis", 18: "\u202edog\t\x1b[31m", 15: "\u200b"})
    flags = ("--labels", labels, "--model", model, "--output", tmp_path / "output")
    status, out, err = command_line(mask_rcnn_hub, *scenes, *flags)
    assert (status, err) == (0, "") and "640 x 427  1 cat felis, 1 dog [31m, 1 class 15  " in out, out


def test_columns_of_wide_letters_stay_aligned(capsys):
    cli.print_table(
        [("found", "seconds"), (f"1 {CAT}", "0.1"), ("2 \u0e41\u0e21\u0e27\u0e49", "0.2"), ("1 cat", "0.3")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["found  seconds", f"1 {CAT}   0.1", "2 \u0e41\u0e21\u0e27\u0e49  0.2", "1 cat  0.3"]


def test_curves_name_fonts_for_other_scripts():
    """Only installed ones: matplotlib complains about others."""
    known = font_manager.fontManager.get_font_names()
    families = plots.STYLE[1]["font.family"]
    assert families[0] == "sans-serif" and set(families[1:]) <= set(known)
