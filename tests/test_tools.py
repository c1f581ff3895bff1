"""What annotation tools write: contradictions between files are problems, guesses are remarks."""

import json
import unicodedata

from app.cli import InputError, percent
from app.datasets import folder as folders
from app.datasets import load, names

import cv2
import numpy as np
import pytest
from own_data import HEIGHT, WIDTH, change, draw, load_data, make, scan, write
from PIL import Image
from pycocotools import mask as coco_masks

VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # the palette of PASCAL VOC


def save_indexed(path, label, order=range(256)):
    """Saves a mask with VOC's colours, in a palette of this order."""
    order = np.array(order)
    colors = np.resize(np.array(VOC, np.uint8), (256, 3))
    mask = Image.fromarray(np.argsort(order).astype(np.uint8)[label] if len(order) > label.max() else label)
    mask.putpalette(colors[order].tobytes())
    mask.save(path)


def indexed(folder, order_of=lambda number: range(256)):
    """A data set whose masks have VOC's colours, with a palette of this order in each."""
    make(folder, 3)
    for number, path in enumerate(sorted((folder / "masks").iterdir())):
        save_indexed(path, np.array(Image.open(path)), order_of(number))
    return folder


def test_masks_with_one_palette_are_right(tmp_path):
    contents = scan(indexed(tmp_path / "data"))
    assert contents.problems == [] and contents.warnings == []
    cut = indexed(tmp_path / "cut", lambda number: range(3 + number % 5))  # without colours that are not used
    assert scan(cut).problems == []


def test_palettes_that_are_numbered_anew_are_a_problem(tmp_path):
    """The same colours in each mask, but other values: as oxipng leaves them."""
    orders = {4: [1, 0, 2], 9: [0, 2, 1]}
    folder = indexed(tmp_path / "data", lambda number: orders.get(number, range(3)))
    problems = scan(folder).problems
    assert [problem.split(": ")[0] for problem in problems] == [
        str(folder / "masks" / name) for name in ("04.png", "09.png")
    ]
    assert "the value 0 is the colour (128, 0, 0), in most masks (0, 0, 0): their palettes differ" in problems[0]
    with pytest.raises(InputError, match="their palettes differ"):
        load_data(str(folder), 32, 4)


def test_one_colour_with_two_values_is_a_problem(tmp_path):
    """No value has two colours, but green is 2 in most masks and 3 in one."""
    folder = indexed(tmp_path / "data")
    path = folder / "masks" / "05.png"
    label = np.array(Image.open(path))
    mask = Image.fromarray(np.where(label == 2, 3, label).astype(np.uint8))
    mask.putpalette([*VOC[:6], 9, 9, 9, *VOC[6:9]])
    mask.save(path)
    assert any(
        "05.png: the value 3 is the colour (0, 128, 0), which in most masks is the value 2" in p
        for p in scan(folder).problems
    )


def test_greys_in_a_palette_have_to_be_those_of_the_other_masks(tmp_path):
    folder = make(tmp_path / "data", 3)
    path = folder / "masks" / "05.png"
    mask = Image.fromarray(np.array([0, 2, 1], np.uint8)[np.array(Image.open(path))])
    mask.putpalette([0, 0, 0, 2, 2, 2, 1, 1, 1])
    mask.save(path)
    (problem,) = scan(folder).problems
    assert "05.png: the value 1 is the colour (2, 2, 2), in most masks (1, 1, 1)" in problem

    folder = indexed(tmp_path / "mixed")
    path = folder / "masks" / "05.png"
    Image.fromarray(np.array(Image.open(path))).save(path)
    contents = scan(folder)
    assert contents.problems == [] and "05.png: in grey, as 1 of 20 masks" in contents.warnings[0]


def test_a_background_that_is_not_the_first_color(tmp_path):
    """A palette sorted by frequency or hue, the same in all masks."""
    contents = scan(indexed(tmp_path / "data", lambda number: [1, 2, 0]))
    assert contents.problems == [] and "the value 2 is black; 0, of the colour (128, 0, 0)" in contents.warnings[0]


def test_white_of_one_bit_is_white(tmp_path):
    """An optimiser makes masks of 0 and 255 such; others beside them have greater values."""
    folder = make(tmp_path / "data", 2, values=(0, 255))
    for path in list((folder / "masks").iterdir())[::2]:
        Image.open(path).convert("1").save(path)
    contents = scan(folder)
    assert contents.problems == [] and contents.class_names == ("background", "foreground")


@pytest.mark.parametrize(
    ("text", "class_names", "ignores"),
    [
        ("__ignore__\n_background_\ncat\ndog\n", ("background", "cat", "dog"), True),  # labelme's labels.txt
        ("_background_\ncat\ndog\n", ("background", "cat", "dog"), False),  # its class_names.txt
        ("-1 __ignore__\n0 _background_\n1 cat\n2 dog\n", ("background", "cat", "dog"), True),
        ("background\ncat\ndog\n__ignore__\n", ("background", "cat", "dog"), True),
        ("background\ncat\ndog\n255: ignore\n", ("background", "cat", "dog"), True),
        ("Background\ncat\nignored dog\n", ("background", "cat", "ignored dog"), False),
    ],
)
def test_ignored_classes_and_backgrounds(tmp_path, text, class_names, ignores):
    folder = make(tmp_path / "data", 3)
    (folder / "classes.txt").write_text(text)
    if ignores:
        path = folder / "masks" / "03.png"
        label = np.array(Image.open(path))
        label[:4] = 255
        Image.fromarray(label).save(path)
    contents = scan(folder)
    assert contents.problems == [] and contents.class_names == class_names
    assert contents.ids[:3].tolist() == [0, 1, 2] and (contents.ids[255] == 255)


@pytest.mark.parametrize("text", ["background\nignore\ncat\n", "0 background\n1 cat\n2 ignore\n", "ignore\ncat\ndog\n"])
def test_another_ignored_value_is_refused(tmp_path, text):
    folder = make(tmp_path / "data", 3)
    (folder / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=r'classes.txt: ".*ignore": only 255 can be ignored'):
        scan(folder)


def test_names_without_the_background_are_doubted(tmp_path):
    folder = make(tmp_path / "data", 3)
    (folder / "classes.txt").write_text("cat\ndog\nbird\nfish\n")
    warnings = scan(folder).warnings
    assert any("is taken as cat, the first name; if it is the background, write" in warning for warning in warnings)
    (folder / "classes.txt").write_text("Unlabeled\ncat\ndog\n")
    assert scan(folder).warnings == []
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert 'if 0 is the background, write "background" above' in scan(folder).problems[0]
    (folder / "classes.txt").write_text("Cat\ncat\nvoid\n")
    assert "differ in case only: Cat, cat" in scan(folder).warnings[0]


def test_masks_in_subfolders(tmp_path):
    """Folders named after splits are the splits; others are not."""
    folder = make(tmp_path / "data", 3)
    for kind in ("images", "masks"):
        for number, path in enumerate(sorted((folder / kind).iterdir())):
            place = folder / kind / ("train" if number < 15 else "val")
            place.mkdir(exist_ok=True)
            path.rename(place / f"frame {number % 15}{path.suffix}")  # names that both have
    contents = scan(folder)
    assert {split: len(part) for split, part in contents.splits.items()} == {"train": 15, "validation": 5}
    assert contents.problems == [] and "the folders train, val are taken as the splits" in contents.warnings[0]
    for example in contents.examples:
        assert (
            example.image.parent.name == example.label_file.parent.name
            and example.image.stem == example.label_file.stem
        )
    assert load_data(str(folder), 32, 4).counts == {"train": 13, "validation": 5, "test": 2}
    for kind in ("images", "masks"):
        (folder / kind / "train").rename(folder / kind / "garden")
    assert len(scan(folder).splits["train"]) == 20


def test_links_to_their_own_folder_end(tmp_path):
    folder, bugs = make(tmp_path / "data", 3), write(tmp_path / "bugs")
    for place in (folder, bugs):
        for name in ("a", "b"):
            (place / "images" / name).symlink_to(place / "images")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "images" / "03.jpg").rename(elsewhere / "03.jpg")
    (folder / "masks" / "more").mkdir()
    (folder / "masks" / "03.png").rename(folder / "masks" / "more" / "03.png")
    (folder / "images" / "more").symlink_to(elsewhere)
    for place in (folder, bugs):
        contents = scan(place)
        assert contents.problems == [] and contents.warnings == [] and len(contents.sizes) == 20
    assert len(names.files_below(bugs / "images")) == 20


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_other_forms_of_unicode(tmp_path, forms):
    """As macOS writes them to a disk that other systems read."""
    file, text = (unicodedata.normalize(form, "für é ") for form in forms)
    folder = make(tmp_path / "data", 3)
    for number in range(0, 20, 2):
        (folder / "images" / f"{number:02}.jpg").rename(folder / "images" / f"{file}{number}.jpg")
        (folder / "masks" / f"{number:02}.png").rename(folder / "masks" / f"{text}{number}.png")
    contents = scan(folder)
    assert len(contents.sizes) == 20 and contents.warnings == []

    folder = write(tmp_path / "bugs", "a file a split")
    for number in range(20):
        (folder / "images" / f"scene {number}.png").rename(folder / "images" / f"{file}{number}.png")
    for name in ("train", "valid", "test"):
        change(folder / f"{name}.json", lambda content: [
            image.update(file_name=f"{text}{image['id'] - 100}.png") for image in content["images"]
        ])  # fmt: skip
        form = forms[name == "test"]
        change(
            folder / f"{name}.json",
            lambda c, form=form: c["categories"][0].update(name=unicodedata.normalize(form, "blü")),
        )
    contents = scan(folder)
    assert len(contents.sizes) == 20 and contents.warnings == [] == contents.problems
    assert contents.class_names == ("background", unicodedata.normalize("NFC", "blü"), "bug")


def test_classes_that_are_gone_at_the_size_of_the_training(tmp_path):
    folder = make(tmp_path / "data", 2, names=("background", "board", "screw"))
    for number in range(20):
        picture, label = draw(2, number, 256, 256)
        label[103:105, 107:109] = 2
        Image.fromarray(picture).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(label).save(folder / "masks" / f"{number:02}.png")
    words = "screw: no pixel of it is left at 32 px in 20 of the 20 masks or photos with it; use a larger --image-size"
    contents, _ = folders.scan(folder, folders.read(folder), image_size=32)
    assert contents.problems == [] and [words in warning for warning in contents.warnings] == [True]
    assert load.load(str(folder), image_size=32).findings
    contents, _ = folders.scan(folder, folders.read(folder), image_size=192)
    assert contents.warnings == []


def deep(folder, values, dtype, ending="tif"):
    """A data set whose photos have these values for the classes."""
    make(folder, 3)
    for number in range(20):
        (folder / "images" / f"{number:02}.jpg").unlink()
        label = np.array(Image.open(folder / "masks" / f"{number:02}.png"))
        Image.fromarray(np.array(values, dtype)[label]).save(folder / "images" / f"{number:02}.{ending}")
    return folder


@pytest.mark.parametrize(
    ("values", "dtype", "white"),
    [
        ((300, 400, 568), np.uint16, 568),  # a microscope's 10 bits
        ((300, 4000, 60), np.uint16, 4000),
        ((0, 40, 200), np.uint16, 255),
        ((300, 400, 60000), np.uint16, 65535),
        ((0.1, 0.5, 1), np.float32, 1),
        ((90, 500.5, 900), np.float32, 900),
        ((90, 500, 10**6), np.float32, 10**6),
    ],
)
def test_pictures_of_more_than_8_bits_have_one_scale(tmp_path, values, dtype, white):
    folder = deep(tmp_path / "data", values, dtype)
    dark = np.full((40, 56), values[0], dtype)  # has the scale of the others
    Image.fromarray(dark).save(folder / "images" / "03.tif")
    dataset = load.load(str(folder), image_size=32)
    assert dataset.white == white == json.loads(json.dumps(dataset.findings))["white"]
    images, labels = (array.numpy() for array in dataset.arrays)
    expected = np.array(values) * 255 / white
    for number, value in enumerate(expected[:2]):
        assert abs(float(np.median(images[labels == number])) - value) <= 1.5
    again = load.load(str(folder), image_size=32, findings=json.loads(json.dumps(dataset.findings)))
    image, _ = again.decode(3)
    assert abs(float(np.median(image)) - expected[0]) <= 1
    warnings = [warning for warning in scan(folder).warnings if "is white in all" in warning]
    assert [f"{white:g} is white" in warning for warning in warnings] == ([] if white in (1, 65535) else [True])


def test_dark_colours_of_16_bits_are_a_problem(tmp_path):
    """Pillow reads their upper 8 bits only."""
    folder = make(tmp_path / "data", 3)
    for factor, count in ((4, 1), (257, 0)):
        for path in sorted((folder / "images").iterdir()):
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16)
            if path.suffix == ".png":
                picture = picture // 4 * 257
            path.unlink()
            cv2.imwrite(str(path.with_suffix(".png")), picture * factor if path.suffix == ".jpg" else picture)
        problems = scan(folder).problems
        assert len(problems) == count and all("would be read as almost black" in problem for problem in problems)


def test_changed_labels_of_the_same_size_are_noticed(tmp_path):
    folder = make(tmp_path / "data", 3)
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(folder / "masks" / "03.png", compress_level=0)
    findings = load.load(str(folder), image_size=32).findings
    before = (folder / "masks" / "03.png").stat().st_size
    Image.fromarray(np.eye(40, 56, dtype=np.uint8)).save(folder / "masks" / "03.png", compress_level=0)
    assert (folder / "masks" / "03.png").stat().st_size == before
    with pytest.raises(InputError, match="changed since the interruption"):
        load.load(str(folder), image_size=32, findings=findings)

    folder = write(tmp_path / "bugs")
    findings = load.load(str(folder), image_size=32).findings
    change(folder / "annotations.json", lambda c: c["annotations"][1].update(category_id=3, id=22))
    with pytest.raises(InputError, match="changed since the interruption"):
        load.load(str(folder), image_size=32, findings=findings)


def with_boxes(folder):
    """The right box and area in each annotation, as tools write them."""

    def add(content):
        for one in content["annotations"]:
            outline = one["segmentation"]
            kinds = outline if isinstance(outline, list) else [outline]
            packed = isinstance(outline, dict) and isinstance(outline["counts"], str)
            region = outline if packed else coco_masks.merge(coco_masks.frPyObjects(kinds, HEIGHT, WIDTH))
            one["bbox"] = [round(value) for value in coco_masks.toBbox(region).tolist()]
            one["area"] = int(coco_masks.area(region))

    change(folder / "annotations.json", add)
    return folder


def row_by_row(mask):
    flat = np.append(0, mask.ravel())
    return [int(run) for run in np.diff(np.flatnonzero(np.diff(flat)), prepend=0, append=mask.size)]


def contradict(one):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:18, 20:32] = 1
    size = [HEIGHT, WIDTH]
    return {
        "by rows": {"segmentation": {"size": size, "counts": row_by_row(mask)}, "bbox": [20, 10, 12, 8], "area": 96},
        "by rows, without a box": {
            "segmentation": {"size": size, "counts": row_by_row(mask)},
            "area": 96,
            "bbox": None,
        },
        "inverted": {"segmentation": {"size": size, "counts": [0, *row_by_row(mask.T)]}, "bbox": [], "area": 96},
        "moved": {"segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [21, 15, 8, 8]},
        "fractions": {"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], "bbox": [6, 4, 45, 32]},
    }[one]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("by rows", "its bbox is [20, 10, 12, 8], but that of its mask"),
        ("by rows", "its runs go along the rows"),
        ("by rows, without a box", "its mask is in shreds; its runs go along the rows"),
        ("inverted", "its area is 96, but its mask has 2144 pixels"),
        ("moved", 'correct the wrong one, or remove "bbox"'),
        ("fractions", "its bbox is [6, 4, 45, 32]"),
    ],
)
def test_masks_that_contradict_their_boxes(tmp_path, kind, words):
    folder = with_boxes(write(tmp_path / "bugs"))
    assert scan(folder).problems == []
    change(folder / "annotations.json", lambda c: c["annotations"][4].update(contradict(kind)))
    problems = scan(folder).problems
    assert len(problems) == 1 and "annotation 5 of scene 1.png: " in problems[0] and words in problems[0], problems


@pytest.mark.parametrize(
    "entry",
    [
        {"bbox": [0, 0, 0, 0], "area": 0},
        {"bbox": None, "area": None},
        {"segmentation": [[5, 5, 35, 5, 35, 9, 5, 9]], "bbox": [5, 4, 31, 6], "area": 99999},  # a polygon's area may be
        {"segmentation": [[10, 5, 12, 5, 35, 28, 33, 30]], "bbox": [18, 2, 4, 30], "attributes": {"rotation": 45.0}},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [400, 12, 1828]}, "area": 30, "bbox": [10, 0, 1, 12]},
    ],
)
def test_boxes_that_tools_write_for_good_masks(tmp_path, entry):
    folder = with_boxes(write(tmp_path / "bugs"))
    change(folder / "annotations.json", lambda c: c["annotations"][4].update(entry))
    assert scan(folder).problems == []


def test_real_annotations_contradict_nothing(shared):
    assert scan(shared / "coco").problems == []


def test_a_category_to_be_ignored(tmp_path):
    """It becomes no class; its pixels are left out of the loss and the scores."""
    folder = write(tmp_path / "bugs")

    def add(content):
        content["categories"].append({"id": 7, "name": "__ignore__"})
        content["annotations"][2]["category_id"] = 7

    change(folder / "annotations.json", add)
    contents = scan(folder)
    assert contents.class_names == ("background", "leaf", "bug") and contents.problems == []
    assert any("annotations of the category __ignore__ are ignored" in warning for warning in contents.warnings)
    mask = contents.examples[0].annotations[2].mask()
    assert (contents.examples[0].read_label()[mask] == 255).mean() > 0.5  # a smaller instance lies on it
    scenes = load.scenes(load.load(str(folder), for_instances=True), "train")
    assert any(scene().crowd is not None for scene in scenes)


LABELME = {"version": "5.5.0", "shapes": [], "imagePath": "images/00.jpg", "imageHeight": 40, "imageWidth": 56}


@pytest.mark.parametrize(("place", "count"), [(".", 20), (".", 1), ("images", 20)])
def test_labelmes_own_files_are_named(tmp_path, place, count):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(draw(3, number)[0]).save(folder / "images" / f"{number:02}.jpg")
        (folder / place / f"{number:02}.json").write_text(json.dumps(LABELME))
    with pytest.raises(
        InputError, match=r"00.json: labelme's own format, one file for each photo; convert all of them"
    ):
        scan(folder)


def test_other_tools_files_beside_each_photo_are_no_coco_files(tmp_path):
    folder = write(tmp_path / "data")
    (folder / "annotations.json").unlink()
    for number in range(3):
        (folder / f"scene {number}.png.json").write_text('{"objects": [], "size": {}}')
    with pytest.raises(InputError, match=r"scene 0.png.json: not a COCO file, it has no list of images"):
        scan(folder)


def test_names_of_classes_in_another_file_are_no_secret(tmp_path):
    folder = make(tmp_path / "data", 3)
    (folder / "labels.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    (warning,) = scan(folder).warnings
    assert "labels.txt: not read, the names of the classes have to be in classes.txt" in warning


def test_a_class_that_only_the_test_split_has(tmp_path):
    folder = write(tmp_path / "bugs", "a file a split")
    change(folder / "test.json", lambda content: content["categories"][0].update(name="leaves"))
    contents = scan(folder)
    assert contents.class_names == ("background", "leaf", "bug", "leaves")
    assert "classes without a pixel in the photos to train with: leaves" in contents.warnings


@pytest.mark.parametrize("outline", [[1, 1, 9, 9, 5, 30], [[1, 1], [9, 9], [5, 30]], [[[1, 1], [9, 9], [5, 30]]]])
def test_the_right_form_of_a_polygon_is_shown(tmp_path, outline):
    folder = write(tmp_path / "bugs")
    change(folder / "annotations.json", lambda c: c["annotations"][4].update(segmentation=outline))
    (problem,) = scan(folder).problems
    assert "list of polygons: [[x1, y1, x2, y2, x3, y3, ...]]" in problem


def test_small_shares_keep_their_digits():
    assert [percent(share) for share in (0, 1, 0.5, 0.0123, 0.0088, 0.00046, 0.0000012)] == [
        "0.00%", "100.00%", "50.00%", "1.23%", "0.88%", "0.046%", "0.00012%",
    ]  # fmt: skip
    assert [percent(share, 0) for share in (0.87, 0.004)] == ["87%", "0.40%"]


def test_fractions_are_no_pixels(tmp_path):
    folder = write(tmp_path / "data")
    fractions = [[0.1, 0.2, 0.5, 0.2, 0.5, 0.7]]
    change(folder / "annotations.json", lambda content: content["annotations"][0].update(segmentation=fractions))
    (problem,) = scan(folder).problems
    assert "annotation 1 of" in problem and "its coordinates are fractions, COCO's are pixels" in problem


def test_an_instance_that_is_there_twice_is_left_out(tmp_path):
    folder = write(tmp_path / "data")
    count = sum(len(example.annotations) for example in scan(folder).examples)
    again = {"id": 999}
    change(
        folder / "annotations.json", lambda content: content["annotations"].append(content["annotations"][0] | again)
    )
    contents = scan(folder)
    assert sum(len(example.annotations) for example in contents.examples) == count
    assert any("annotation 999 of" in one and "an earlier one, left out" in one for one in contents.warnings)


def test_a_photo_that_is_there_twice_is_said(tmp_path):
    folder = make(tmp_path / "data", 3)
    assert scan(folder).warnings == []
    for kind in ("images", "masks"):
        path = sorted((folder / kind).iterdir())[4]
        path.with_stem("copy").write_bytes(path.read_bytes())
    (warning,) = scan(folder).warnings
    assert warning.startswith("the same photo twice: copy.") and "; keep one, or a score may be of" in warning
