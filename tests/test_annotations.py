"""COCO annotations as own data: every layout is checked, trained on and used; every problem is one line."""

import contextlib
import json
import shutil

from app.cli import InputError
from app.datasets import coco, load
from app.datasets import folder as folders

import numpy as np
import pytest
import unet_scratch
from own_data import (
    CLASSES,
    COLORS,
    HEIGHT,
    LAYOUTS,
    NAMES,
    WIDTH,
    annotate,
    change,
    load_data,
    make,
    scan,
    truth,
    write,
)
from PIL import Image
from pycocotools.coco import COCO


@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_train_and_predict(command_line, tmp_path, layout):
    folder = write(tmp_path / "bugs", layout)
    status, out, err = command_line(unet_scratch, "--data", folder, "--check-data")
    assert (status, err) == (0, "") and "problems: none" in out and "warnings: none" in out
    counts = "16 to train with, 2 to test" if layout == "one file" else "14 to train with, 3 to validate, 3 to test"
    assert f"20 photos can be used, {counts.replace('16', '18')}" in out and "sizes: 56 x 40 to 56 x 40" in out
    labels = np.stack([truth(annotate(number)) for number in range(20)])
    for number, name in enumerate(CLASSES):
        share = (labels == number).sum() / (labels != 255).sum()
        instances = {"background": "", "leaf": "20", "bug": "40"}[name]
        assert f"{name} {number} {instances} {share:.2%}".split() in [line.split() for line in out.splitlines()]

    if layout == "a file a split":
        return  # of these two, training one is enough
    output = tmp_path / "output"
    flags = ("--image-size", 32, "--epochs", 2, "--batch-size", 4, "--output", output)
    status, out, err = command_line(unet_scratch, "--data", folder, *flags)
    assert (status, err) == (0, "")
    assert ("16 train, 2 validation, 2 test" if layout == "one file" else "14 train, 3 validation, 3 test") in out
    assert tuple(json.loads((output / "metrics.json").read_text())["test"]["iou"]) == CLASSES

    photos = [path for path in folder.rglob("*.png")][:3]
    flags = ("--weights", output / "unet_scratch.keras", "--output", tmp_path / "found")
    status, out, err = command_line(unet_scratch, "--predict", *photos, *flags)
    assert (status, err) == (0, "") and "background, leaf, bug" in out
    mask = Image.open(tmp_path / "found" / f"{photos[0].stem}_mask.png")
    assert mask.size == (WIDTH, HEIGHT) and np.asarray(mask).max() < 3
    assert (tmp_path / "found" / f"{photos[0].stem}_cutout.png").exists()


@pytest.mark.parametrize("orientation", [6, 8])
def test_annotations_of_photos_that_are_turned(tmp_path, orientation):
    """A TIFF that its EXIF data turn has the size that it is shown with, as a JPEG has."""
    folder = write(tmp_path / "bugs")
    upright = np.asarray(Image.open(folder / "images" / "scene 3.png"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.rot90(upright, 1 if orientation == 6 else -1).copy())
    stored.save(folder / "images" / "scene 3.tif", exif=exif)
    (folder / "images" / "scene 3.png").unlink()

    def rename(content):
        content["images"][3]["file_name"] = "scene 3.tif"

    change(folder / "annotations.json", rename)
    contents = scan(folder)
    assert not contents.problems and len(contents.examples) == 20
    assert len(contents.warnings) == 1 and "scene 3.tif: turned upright" in contents.warnings[0]


def test_label_maps_equal_the_masks_of_pycocotools(tmp_path):
    """Also as the training reads them: images and labels belong together."""
    folder = write(tmp_path / "bugs")
    contents = coco.read(folder, coco.find(folder))
    assert contents.categories == NAMES and len(contents.examples) == 20
    with contextlib.redirect_stdout(None):
        reference = COCO(folder / "annotations.json")
    for number, example in enumerate(contents.examples):
        expected = truth(annotate(number))
        np.testing.assert_array_equal(example.read_label(), expected)
        assert (expected == 255).any() == (number % 3 == 0)
        entries = reference.loadAnns(reference.getAnnIds(number + 100))
        for annotation, entry in zip(example.annotations, entries, strict=True):
            np.testing.assert_array_equal(annotation.mask(), reference.annToMask(entry))
            assert CLASSES[annotation.class_id] == NAMES[entry["category_id"]]
            assert annotation.is_crowd == bool(entry["iscrowd"])
    for images, label_maps in load_data(str(folder), 32, 4).test:
        for image, label in zip(images.numpy(), label_maps.numpy(), strict=True):
            nearest = np.abs(image[:, :, None].astype(int) - COLORS).sum(-1).argmin(-1)
            assert (nearest == label)[label != 255].mean() > 0.9


def test_one_check_serves_a_resumed_run(tmp_path):
    """Also with a detector's scenes; the annotations count as data."""
    folder = write(tmp_path / "bugs")
    dataset = load.load(str(folder), image_size=32)
    findings = json.loads(json.dumps(dataset.findings))
    again = load.load(str(folder), image_size=32, findings=findings)
    assert dataset.arrays and not again.arrays
    for one, other in zip(*(load.pipelines(part, 32, 4, 0).validation for part in (dataset, again)), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    scenes = load.scenes(load.load(str(folder), findings=findings, for_instances=True), "train")
    assert len(scenes) == 16 and scenes[0]().classes.tolist() == [1, 2, 2]
    change(folder / "annotations.json", lambda content: content["annotations"].pop())
    with pytest.raises(InputError, match="changed since the interruption"):
        load.load(str(folder), findings=findings, for_instances=True)


def test_class_fractions_of_coco(shared):
    contents = scan(shared / "coco")
    assert not contents.problems and len(contents.sizes) == 20
    with contextlib.redirect_stdout(None):
        reference = COCO(shared / "coco" / "instances.json")
    names = {category["id"]: category["name"] for category in reference.dataset["categories"]}
    pixels = dict.fromkeys(("background", *names.values()), 0)
    for image_id, image in reference.imgs.items():
        label = np.zeros((image["height"], image["width"]), int)
        entries = reference.loadAnns(reference.getAnnIds(image_id))
        for entry in sorted(entries, key=lambda entry: -int(reference.annToMask(entry).sum())):
            label[reference.annToMask(entry) == 1] = -1 if entry["iscrowd"] else entry["category_id"]
        for number in np.unique(label[label >= 0]):
            pixels[names.get(number, "background")] += int((label == number).sum())
    assert dict(zip(contents.class_names, contents.pixels.tolist(), strict=True)) == pixels


def counts(contents):
    return {split: len(examples) for split, examples in contents.splits.items()}


def test_files_as_tools_name_them(tmp_path):
    """CVAT: annotations/instances_Train.json and subfolders of images; Label Studio: result.json with images\\NAME."""
    folder = write(tmp_path / "cvat", "a file a split")
    (folder / "annotations").mkdir()
    for split, name in (("train", "Train"), ("valid", "Validation"), ("test", "test2017")):
        for entry in json.loads((folder / f"{split}.json").read_text())["images"]:
            place = folder / "images" / name
            place.mkdir(exist_ok=True)
            (folder / "images" / entry["file_name"]).rename(place / entry["file_name"])
        (folder / f"{split}.json").rename(folder / "annotations" / f"instances_{name}.json")
    contents = scan(folder)
    assert counts(contents) == {"train": 14, "validation": 3, "test": 3} and not contents.problems

    folder = write(tmp_path / "label studio")
    (folder / "annotations.json").rename(folder / "result.json")
    change(folder / "result.json", lambda content: [
        image.update(file_name=f"images\\{image['file_name']}") for image in content["images"]
    ])  # fmt: skip
    contents = scan(folder)
    assert contents.problems == [] and len(contents.sizes) == 20


def test_photos_of_one_name_in_the_folders_of_the_splits(tmp_path):
    """As CVAT names the frames of videos; names in the files are relative to the split's folder."""
    folder = tmp_path / "cvat"
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in (("Train", range(14)), ("Validation", range(14, 17)), ("Test", range(17, 20))):
        write(tmp_path / split)
        change(tmp_path / split / "annotations.json", lambda content, numbers=numbers: content.update(
            images=[{**content["images"][n], "file_name": f"frame {n - numbers[0]}.png"} for n in numbers],
            annotations=[one for one in content["annotations"] if one["image_id"] - 100 in numbers],
        ))  # fmt: skip
        (folder / "images" / split).mkdir(parents=True)
        for number in numbers:
            photo = tmp_path / split / "images" / f"scene {number}.png"
            shutil.copy(photo, folder / "images" / split / f"frame {number - numbers[0]}.png")
        shutil.copy(tmp_path / split / "annotations.json", folder / "annotations" / f"instances_{split}.json")
    contents = scan(folder)
    assert contents.problems == [] and contents.warnings == []
    assert counts(contents) == {"train": 14, "validation": 3, "test": 3}
    np.testing.assert_array_equal(contents.splits["test"][0].read_label(), truth(annotate(17)))


def test_other_files_beside_the_annotations(tmp_path):
    """Captions of COCO, and what macOS leaves on a memory stick."""
    folder = write(tmp_path / "bugs")
    (folder / "annotations.json").rename(folder / "instances_train2017.json")
    for name in ("captions_train2017.json", "._instances_train2017.json", ".DS_Store"):
        (folder / name).write_bytes(b"\0")
    contents = scan(folder)
    assert contents.warnings == [] and len(contents.sizes) == 20


def test_an_image_is_not_taken_for_another_of_its_name(tmp_path):
    folder = write(tmp_path / "bugs")
    change(folder / "annotations.json", lambda c: c["images"][1].update(file_name="missing/scene 2.png"))
    contents = scan(folder)
    assert len(contents.sizes) == 19 and "missing/scene 2.png is not in" in contents.warnings[0]


def test_odd_but_harmless_entries(tmp_path):
    """A crowd that is none, a background as labelme's script writes it, a polygon without a pixel, mostly crowds."""

    def edit(content):
        content["annotations"][0].update(iscrowd="0")
        content["annotations"][4].update(segmentation=[[5, 5, 5, 5, 5, 5]])
        content["categories"].insert(0, {"id": 0, "name": "_background_"})

    folder = write(tmp_path / "bugs")
    change(folder / "annotations.json", edit)
    contents = scan(folder)
    assert contents.problems == [] and contents.class_names == CLASSES
    single = [one.class_id for example in contents.examples for one in example.annotations if not one.is_crowd]
    assert (single.count(1), single.count(2)) == (19, 40)
    assert any("annotation 5 of scene 1.png: it has no pixel" in warning for warning in contents.warnings)
    change(folder / "annotations.json", lambda c: [one.update(iscrowd=1) for one in c["annotations"]])
    warnings = scan(folder).warnings
    assert any("47 of 47 annotations of bug are crowds" in warning for warning in warnings), warnings


def test_a_missing_split_is_drawn_by_the_seed(tmp_path):
    folder = write(tmp_path / "bugs", "a file a split")
    (folder / "valid.json").unlink()
    assert load_data(str(folder), 32, 4).counts == {"train": 13, "validation": 1, "test": 3}
    contents = scan(write(tmp_path / "all"))
    one, other, again = (folders.split(contents, seed)["test"] for seed in (0, 1, 0))
    assert one != other and one == again

    folder = write(tmp_path / "more", "a file a split")
    (folder / "test.json").unlink()
    assert load_data(str(folder), 32, 4).counts == {"train": 13, "validation": 3, "test": 1}


def test_photos_without_instances_and_files_without_each_other(tmp_path):
    folder = write(tmp_path / "bugs")
    change(folder / "annotations.json", lambda content: content.update(
        annotations=[one for one in content["annotations"] if one["image_id"] != 103]
    ))  # fmt: skip
    change(folder / "annotations.json", lambda content: content["annotations"][4].update(bbox=[9, 5, 50, 9]))
    (folder / "images" / "scene 4.png").rename(folder / "images" / "holiday.png")
    contents = scan(folder)
    assert contents.problems == [] and len(contents.sizes) == 19
    for warning in (
        "scene 3.png: all one class (background)",
        "annotation 5 of scene 1.png: a box outside of the image, [9, 5, 50, 9] in 56 x 40; its outline is taken",
        "scene 4.png is not in",
        "holiday.png: not used, it is in no annotation file",
    ):
        assert sum(warning in line for line in contents.warnings) == 1, contents.warnings


def segmentation(outline):
    return lambda content: content["annotations"][4].update(segmentation=outline)


PROBLEMS = {
    "another size": (lambda c: c["images"][1].update(width=50), "scene 1.png has 56 x 40 pixels, not 50 x 40"),
    "two points": (segmentation([[1, 1, 9, 9]]), "annotation 5 of scene 1.png: a polygon of 2 points"),
    "odd numbers": (segmentation([[1, 1, 9, 9, 5, 5, 3]]), "a polygon of 3.5 points"),
    "outside": (segmentation([[1, 1, 99, 9, 5, 30]]), "a polygon outside of the image: 99 is not in 0 to 56"),
    "huge": (segmentation([[1, 1, 9, 10**400, 5, 30]]), "a polygon outside of the image: 1000000"),
    "not finite": (segmentation([[1, 1, 9, float("nan"), 5, 30]]), "a polygon outside of the image: nan"),
    "words": (segmentation([["a", 1, 9, 9, 5, 30]]), "a polygon has to be a list of numbers"),
    "flat": (segmentation([1, 1, 9, 9, 5, 30]), "a polygon has to be a list of numbers"),
    "box only": (segmentation([]), "it has neither a polygon nor a mask"),
    "mask of another size": (
        segmentation({"size": [9, 9], "counts": [81]}),
        "its mask has another size",
    ),
    "short mask": (segmentation({"size": [40, 56], "counts": [9, 9]}), "its mask has another number of pixels"),
    "cut mask": (segmentation({"size": [40, 56], "counts": "Q"}), "its mask is damaged"),
    "no mask": (segmentation({"size": [40, 56], "counts": "\x07"}), "its mask is damaged"),
    "negative mask": (segmentation({"size": [40, 56], "counts": [-5, 2245]}), "its mask is damaged"),
    "category": (lambda c: c["annotations"][4].update(category_id=8), "there is no category with the id 8"),
    "image": (lambda c: c["annotations"][4].update(image_id=8), "annotation 5: there is no image with the id 8"),
    "names": (lambda c: c["images"][2].update(file_name="scene 1.png"), "two images are named scene 1.png; keep one"),
    "one file": (lambda c: c["images"][2].update(file_name="images/scene 1.png"), "two images are the same file"),
    "category ids": (lambda c: c["categories"].append({"id": 3, "name": "stone"}), "two categories have the id 3"),
    "ids": (lambda c: c["images"][2].update(id=101), "two images have the id 101"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_named(tmp_path, name):
    damage, words = PROBLEMS[name]
    folder = write(tmp_path / "bugs")
    change(folder / "annotations.json", damage)
    problems = scan(folder).problems
    assert any(words in problem for problem in problems), problems
    assert all("\n" not in problem and str(folder) in problem for problem in problems)
    with pytest.raises(InputError, match="--check-data lists all of them"):
        load_data(str(folder), 32, 4)


def without(key):
    return lambda path: change(path, lambda content: content.pop(key))


FAULTS = {
    "text": (lambda path: path.write_text("cat, dog"), "annotations.json: not JSON"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:99]), "annotations.json: not JSON"),
    "deep": (lambda path: path.write_text("[" * 10**5), "annotations.json: not JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\xfa"), "annotations.json: not JSON"),
    "list": (lambda path: path.write_text("[]"), "not a COCO file, it has no list of images"),
    "no annotations": (without("annotations"), "not a COCO file, it has no list of annotations"),
    "no width": (lambda path: change(path, lambda c: c["images"][3].pop("width")), r"width of images\[3\] is null"),
    "no size": (
        lambda path: change(path, lambda c: c["images"][3].update(width=0)),
        "an impossible size",
    ),
    "no image": (lambda path: shutil.move(path.parent / "images", path.parent.parent), "none of its 20 images is in"),
    "no categories": (lambda path: change(path, lambda c: c.update(categories=[])), "list of categories is empty"),
    "many categories": (
        lambda path: change(path, lambda c: c.update(categories=[{"id": i, "name": f"{i}"} for i in range(300)])),
        "301 classes with the background; 255 are possible",
    ),
    "roboflow too": (
        lambda path: write(path.parent, "roboflow"),
        "train/_annotations.coco.json, valid/_annotations.coco.json, annotations.json: keep one",
    ),
    "huge": (lambda path: change(path, lambda c: c["images"][3].update(width=10**400)), "an impossible size"),
    "which": (lambda path: shutil.copy(path, path.parent / "more.json"), "keep one, or name them train.json"),
    "no train": (
        lambda path: [shutil.copy(path, path.parent / f"{name}.json") for name in ("valid", "test")] and path.unlink(),
        "there is no train.json beside test.json",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_unusable_files(command_line, tmp_path, name):
    damage, words = FAULTS[name]
    folder = write(tmp_path / "bugs")
    damage(folder / "annotations.json")
    with pytest.raises(InputError, match=words):
        scan(folder)
    for flags in ((), ("--check-data",)):
        status, _, err = command_line(unet_scratch, "--data", folder, *flags, "--output", tmp_path / "output")
        assert status == 2 and err.count("\n") == 1, err


def test_an_image_in_two_splits_or_two_places(tmp_path):
    folder = write(tmp_path / "bugs", "a file a split")
    change(folder / "test.json", lambda content: content["images"][0].update(file_name="scene 3.png"))
    assert any("scene 3.png is in train.json too" in problem for problem in scan(folder).problems)
    folder = write(tmp_path / "more")
    for place in ("a", "b"):
        (folder / "images" / place).mkdir()
        shutil.copy(folder / "images" / "scene 3.png", folder / "images" / place)
    (folder / "images" / "scene 3.png").unlink()
    (problem,) = scan(folder).problems
    assert "scene 3.png may be" in problem and "rename one of them" in problem


def test_of_masks_and_annotations_the_masks_are_taken(tmp_path, capsys):
    folder = make(tmp_path / "both", 3)
    shutil.copy(write(tmp_path / "bugs") / "annotations.json", folder)
    contents = scan(folder)
    assert contents.class_names == ("background", "class 1", "class 2") and not contents.problems
    assert contents.warnings[0].startswith(f"{folder / 'annotations.json'}: not read, the masks in masks/ are taken")
    load_data(str(folder), 32, 4)
    assert "annotations.json: not read, the masks in masks/ are taken" in capsys.readouterr().out
