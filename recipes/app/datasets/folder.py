"""A user's own folder of images and labels: read, checked and split.

The layouts are described in masks.py and coco.py.
"""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from app import photos
from app.cli import InputError, listed
from app.datasets import (
    Contents,
    Dataset,
    LabeledImage,
    Scene,
    coco,
    decode_by,
    masks,
    names,
    palettes,
    pets,
    regions,
    vanished,
    with_threads,
)
from common import data
from common.scores import TRIMAP

import numpy as np
import tensorflow as tf

THREADS = 8
JPEG = {".jpg", ".jpeg"}  # of 8 bits always
BLOCK = 64  # label maps that are converted at a time


def load(
    path: pathlib.Path,
    seed: int,
    image_size: int | None,
    findings: dict[str, Any] | None,
    for_instances: bool,
    keeps_photos: bool = True,
) -> Dataset:
    """The data set in a folder; splits that it does not declare are drawn by the seed, a tenth each.

    Args:
      image_size: that of the training, for which labels are checked too; None: any.
      findings: those of an earlier check, which is not repeated.
      for_instances: whether instances are needed.
      keeps_photos: whether photos are kept, at this size, while they are checked.
    Raises:
      InputError: if the folder has problems, has changed since the earlier check, or has no instances to train with.
    """
    contents, arrays, findings = _checked(path, seed, image_size, findings, keeps_photos, for_instances)
    examples = contents.examples

    def read_pair(place):
        return examples[place].read_image(), contents.ids[examples[place].read_label()]

    places = split(contents, seed)
    splits = {name: tf.data.Dataset.from_tensor_slices(np.array(part, np.int64)) for name, part in places.items()}
    if "validation" not in splits:
        train, test = len(places["train"]), len(places["test"])
        fraction = 0.1 if "test" in contents.splits else (train + test) / 10 / train
        splits["train"], splits["validation"] = data.split(splits["train"], fraction, seed)
    left_out = set(contents.left_out)
    used = [place for place in range(len(examples)) if place not in left_out]
    sizes = dict(zip(used, contents.sizes, strict=True))
    options = {"arrays": arrays, "findings": findings, "white": contents.white}
    options |= {"pixels": contents.pixels.tolist(), "size": sizes.get}
    dataset = Dataset(contents.class_names, splits, decode_by(read_pair), **options)
    if not for_instances:
        return dataset
    categories, to_scene = instances(path, contents, places["train"])
    return dataset._replace(
        categories=categories,
        read_scene=lambda place: to_scene(examples[place]),
        max_instances=max(1, *(len(examples[place].annotations) for part in places.values() for place in part)),
    )


def _checked(
    path: pathlib.Path,
    seed: int,
    image_size: int | None,
    findings: dict[str, Any] | None,
    keeps_photos: bool,
    for_instances: bool,
) -> tuple[Contents, tuple[data.Array, data.Array] | None, dict[str, Any]]:
    """The contents of a folder, photos as of `scan`, and findings; with earlier ones it is not checked."""
    contents = read(path)
    fingerprint = _fingerprint(path, contents)
    arrays = None
    if not findings:
        contents, arrays = scan(path, contents, seed, image_size, keeps_photos, for_instances)
        problems = contents.problems
        if problems:
            first = "; ".join(problems[:3])
            raise InputError(f"--data {path}: problems: {len(problems)} ({first}); --check-data lists all of them")
        if contents.warnings:
            count = f"{len(contents.warnings)} ({contents.warnings[0]})"
            print(f"--data {path}: warnings: {count}; --check-data lists all of them")
    elif findings["fingerprint"] == fingerprint:
        class_names = tuple(findings["class_names"])
        ids = np.array(findings["ids"], np.uint8)
        contents = contents._replace(class_names=class_names, ids=ids, left_out=findings["left_out"])
        contents = contents.with_white(findings["white"])
        contents = contents._replace(sizes=findings["sizes"], pixels=np.array(findings["pixels"]))
    else:
        raise InputError(f"--resume: the data in {path} changed since the interruption; start again without --resume")
    findings = {
        "fingerprint": fingerprint,
        "class_names": contents.class_names,
        "ids": contents.ids.tolist(),
        "left_out": contents.left_out,
        "white": contents.white,
        "sizes": contents.sizes,
        "pixels": contents.pixels.tolist(),
    }
    return contents, arrays, findings


def read(path: pathlib.Path) -> Contents:
    """What the files of a folder say, before its images are read.

    Raises:
      InputError: if it has none of the layouts, or a file with the names of classes or images is not valid.
    """
    labels = masks.find(path)
    annotations = coco.find(path)
    if labels and (path / "images").is_dir():
        contents = masks.read(path, labels)
        choice = f"not read, the masks in {labels.name}/ are taken; to train on annotations, remove {labels.name}/"
        unused = [f"{file}: {choice}" for file in annotations]
    elif annotations:
        contents = coco.read(path, annotations)
        unused = [f"{labels}: not used, there is no images/ beside it; the annotations are taken"] if labels else []
    else:
        coco.refuse_labelme(sorted(path.glob("images/*.json")))
        raise InputError(
            f"--data {path}: it has to hold images/ and masks/, images/ and annotations/trimaps/, or images/ and COCO "
            "annotations (annotations.json; train.json, valid.json, test.json; or train/_annotations.coco.json)"
        )
    return contents._replace(warnings=[*unused, *contents.warnings])


def scan(
    path: pathlib.Path,
    contents: Contents,
    seed: int = 0,
    image_size: int | None = None,
    keeps_photos: bool = False,
    for_instances: bool = False,
) -> tuple[Contents, tuple[data.Array, data.Array] | None]:
    """Reads every image and its labels once, and checks them; for a training at `image_size`, if photos are resized.

    Returns:
      The completed contents; with `keeps_photos` also the images and class ids of training and validation, resized.
    """
    contents = _with_range(contents)
    examples = contents.examples
    facts = [None] * len(examples)

    def examine(place):
        facts[place], *pair = _examine(examples[place], image_size, contents.kind == "pairs")
        return pair

    kept = 0
    arrays = None
    if keeps_photos and image_size:
        kept = sum(len(contents.splits.get(name, ())) for name in ("train", "validation"))  # they come first
        pairs = tf.data.Dataset.range(kept).map(decode_by(examine), num_parallel_calls=tf.data.AUTOTUNE)
        arrays = data.read(with_threads(data.resized(pairs, image_size)), "checking")
    others = range(kept, len(examples))
    with ThreadPoolExecutor(THREADS) as pool, data.progress_bar(len(others) or None, "checking") as bar:
        for _ in pool.map(lambda place: examine(place) is None, others):  # keeps no photo
            bar.update()
    contents = _interpret(contents, facts, image_size, for_instances)
    if arrays:
        _to_class_ids(arrays[1], contents.ids)
    _check_splits(path, contents, facts, split(contents, seed))
    return contents, arrays


def _check_splits(
    path: pathlib.Path, contents: Contents, facts: list["Facts | str"], places: dict[str, list[int]]
) -> None:
    """Adds a warning about classes that are not trained, and a problem if a split is empty."""
    trained = contents.ids[[value for place in places["train"] for value in facts[place].pixels]]
    counted = enumerate(zip(contents.class_names, contents.pixels, strict=True))
    untrained = [name for number, (name, count) in counted if count and number not in trained]
    if places["train"] and untrained:
        contents.warnings.append(f"classes without a pixel in the {contents.kind} to train with: {listed(untrained)}")
    counts = {name: len(part) for name, part in places.items()}
    has_validation = counts["validation"] > 0 if "validation" in counts else counts["train"] > 1
    if not (counts["train"] and has_validation and counts["test"]):
        left = f"{counts['train']} of {sum(map(len, contents.splits.values()))} {contents.kind} are left to train with"
        advice = "train, validation and test need one each"
        contents.problems.append(f"{path}: too few {contents.kind}, {left}, {counts['test']} to test; {advice}")


def _with_range(contents: Contents) -> Contents:
    """The contents with one scale for all pictures of more than 8 bits: the range that their values really use."""
    paths = [example.image for example in contents.examples if example.image.suffix.lower() not in JPEG]
    largest = {path: value for path in paths if (value := photos.largest_value(path))}
    dark = {path: value for path, (value, has_colors) in largest.items() if has_colors}
    if dark and max(dark.values()) < 2**15:
        used = f"the colours of {len(dark)} pictures of 16 bits end at {max(dark.values()):g}"
        contents.problems.append(
            f"{contents.place}: {used}, and would be read as almost black; export them with 8 bits"
        )
    grey = {path: value for path, (value, has_colors) in largest.items() if not has_colors}
    if not grey:
        return contents
    brightest = max(grey, key=grey.get)
    value = grey[brightest]
    white = next((limit for limit in (1, 255) if value <= limit), 65535 if 2**15 <= value <= 65535 else value)
    if white not in (1, 65535):
        used = f"{len(grey)} pictures of more than 8 bits have values up to {value:g} ({brightest})"
        contents.warnings.append(f"{used}: {white:g} is white in all, also for --predict; mask_rcnn_hub.py takes 65535")
    return contents.with_white(white)


class Facts(NamedTuple):
    """What an image and its labels are."""

    size: tuple[int, int]  # width and height of the image
    pixels: dict[int, int]  # of each value in the labels
    left: set[int]  # the values that are left at the size of the training
    objects: dict[int, vanished.Objects]  # of each value, if the training shrinks the image
    is_turned: bool  # by EXIF data
    palette: bytes  # of a mask
    digest: bytes  # of the image's pixels


def _examine(
    example: LabeledImage, image_size: int | None, is_mask: bool
) -> tuple[Facts | str, np.ndarray, np.ndarray]:
    """Reads an example; returns the facts or what is wrong, its image, uint8 [H, W, 3], and labels, uint8 [H, W]."""
    nothing = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
    try:
        image = example.read_image()
        label = example.read_label()
    except InputError as error:
        return str(error), *nothing
    is_turned = photos.is_turned(example.image)
    height, width = image.shape[:2]
    rows, columns = label.shape
    if (rows, columns) != (height, width):
        hint = ", which its EXIF data turn" if is_turned else ""
        sizes = f"{columns} x {rows} and the image{hint} {width} x {height}"
        return f"{example.where}: sizes differ, {sizes}", *nothing
    counts = np.bincount(label.ravel(), minlength=256)
    pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    left = set(pixels)
    objects = {}
    if image_size and max(label.shape) > image_size:
        left = set(np.unique(label[np.ix_(*vanished.sampled(label.shape, image_size))]).tolist())
        if is_mask:
            small = [value for value in pixels if pixels[value] < max(pixels.values())]  # the most frequent stays
            objects = vanished.in_mask(label, small, image_size)
        else:
            objects = vanished.in_annotations(example.annotations, image_size)
    palette = palettes.read(example.label_file) if is_mask else b""
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest()
    return Facts((width, height), pixels, left, objects, is_turned, palette, digest), image, label


def _interpret(contents: Contents, facts: list[Facts | str], image_size: int | None, for_instances: bool) -> Contents:
    """Completes the contents of a folder by what `_examine` found out about each example."""
    problems = contents.problems + [fact for fact in facts if isinstance(fact, str)]
    warnings = contents.warnings.copy()
    class_names, ids, allowed = contents.class_names, contents.ids, range(256)
    read = [(example, fact) for example, fact in zip(contents.examples, facts, strict=True) if isinstance(fact, Facts)]
    if contents.kind == "pairs":  # otherwise the labels are class ids
        values = [fact.pixels.keys() for _, fact in read]
        class_names, ids, allowed, doubt = masks.interpret(class_names, values, contents.ignores_255)
        problems += [f"{contents.place}: {doubt}"] if doubt else []
        of_masks = [palettes.Palette(example.where, fact.palette, set(fact.pixels)) for example, fact in read]
        problems += palettes.problems(of_masks)
        warnings += palettes.remarks(of_masks)
    left_out = []
    sizes = []
    pixels = np.zeros(len(class_names), np.int64)
    for place, (example, fact) in enumerate(zip(contents.examples, facts, strict=True)):
        if isinstance(fact, str):
            left_out.append(place)
            continue
        strange = [value for value in fact.pixels if value not in allowed]
        if strange:
            hint = '; if 255 is to be ignored, give a classes.txt with the line "255 ignore"' if 255 in strange else ""
            if strange == [len(class_names)] and contents.files:
                hint = '; if 0 is the background, write "background" above the names in classes.txt'
            problems.append(f"{example.where}: values outside the {len(class_names)} classes: {listed(strange)}{hint}")
            left_out.append(place)
            continue
        known = [value for value in fact.pixels if ids[value] != masks.IGNORED]
        if len(known) < 2:
            only = class_names[ids[known[0]]] if known else "all of it ignored, left out"
            warnings.append(f"{example.where}: all one class ({only})")
        if fact.is_turned:
            warnings.append(f"{example.image}: turned upright by its EXIF data; its labels have to be upright too")
        if known:
            sizes.append(fact.size)
            pixels[ids[known]] += [fact.pixels[value] for value in known]
        else:
            left_out.append(place)
    if sizes and np.count_nonzero(pixels) < 2:
        problems.append(f"{contents.place}: one class alone in all labels; there is nothing to learn")
    unused = set(left_out)
    used = [fact for place, fact in enumerate(facts) if place not in unused]
    warnings += _remarks(class_names, pixels, used)
    warnings += _repeated(read)
    if image_size:
        advice = "use a larger --image-size, or " + ("cut the photos into parts" if for_instances else "--tiles")
        lost = vanished.describe(class_names, ids, pixels, used, image_size)
        warnings = [f"{text}; {advice}" for text in lost] + warnings  # a training shows the first one
    if contents.kind == "pairs" and contents.class_names:
        warnings += masks.doubt_background(class_names, ids, pixels)
    lists = {"problems": problems, "warnings": warnings, "left_out": left_out, "sizes": sizes}
    return contents._replace(class_names=class_names, ids=ids, pixels=pixels, **lists)


def _remarks(class_names: Sequence[str], pixels: np.ndarray, facts: list[Facts]) -> list[str]:
    """Warnings about classes that cannot be learned, or may be meant as one."""
    warnings = []
    absent = [name for name, count in zip(class_names, pixels, strict=True) if not count]
    if facts and absent:
        warnings.append(f"classes without a pixel: {listed(absent)}")
    twins = names.twins(class_names)
    if twins:
        warnings.append(f"classes whose names differ in case only: {listed(twins)}; if they are one, name them alike")
    return warnings


def _repeated(read: list[tuple[LabeledImage, Facts]]) -> list[str]:
    """A warning about photos that are there more than once."""
    first = {}
    pairs = [(example.image, first.setdefault((fact.size, fact.digest), example.image)) for example, fact in read]
    same = [f"{image.name} and {earlier.name}" for image, earlier in pairs if image != earlier]
    if not same:
        return []
    return [f"the same photo twice: {listed(same)}; keep one, or a score may be of photos that were trained on"]


def _to_class_ids(labels: data.Array, ids: np.ndarray) -> None:
    """Turns the values of masks into class ids, in place."""
    count = labels.shape[0]
    for start in range(0, count, BLOCK):
        places = tf.range(start, min(start + BLOCK, count))
        values = labels.sparse_read(places).numpy()
        labels.scatter_update(tf.IndexedSlices(ids[values], places))


def split(contents: Contents, seed: int) -> dict[str, list[int]]:
    """The places of the usable examples to train with, to test and, if they are declared, to validate.

    Without a declared test split, it is a seeded tenth of those to train with.
    """
    left_out = set(contents.left_out)
    places = {}
    first = 0
    for name, part in contents.splits.items():
        places[name] = [place for place in range(first, first + len(part)) if place not in left_out]
        first += len(part)
    places.pop("unused", None)
    if "test" not in places:
        train = places["train"]
        order = np.random.default_rng(seed).permutation(len(train))
        tested = set(order[: max(1, round(len(train) / 10))].tolist())
        places["train"] = [place for index, place in enumerate(train) if index not in tested]
        places["test"] = [place for index, place in enumerate(train) if index in tested]
    return places


def instances(
    path: pathlib.Path, contents: Contents, train: list[int]
) -> tuple[dict[int, str], Callable[[LabeledImage], Scene]]:
    """The categories to train with, and a function that reads the scene of an example; prints what is left out.

    Raises:
      InputError: if there are no instances at the places `train`.
    """
    if contents.kind == "photos":
        examples = contents.examples
        annotations = [one for place in train for one in examples[place].annotations]
        class_ids = sorted({one.class_id for one in annotations if not one.is_crowd} - {0})
        present = [contents.class_names[class_id] for class_id in class_ids]
        empty = [name for name in contents.categories.values() if name not in present]
        if not present:
            raise InputError(f"--data {path}: no category has an instance to train with ({listed(empty)})")
        if empty:
            print(f"--data {path}: categories without an instance to train with, left out: {listed(empty)}")
        categories = {number: name for number, name in contents.categories.items() if name in present}
        return categories, lambda example: regions.scene(example, class_ids)
    if contents.class_names != TRIMAP:
        raise InputError(f"--data {path}: masks do not separate instances; annotate these, and export them as COCO")
    print(f"--data {path}: photos whose names begin with a capital letter are cats, as in Oxford-IIIT Pet")

    def read_scene(example):
        trimap = contents.ids[example.read_label()]
        return pets.scene(example.read_image(), trimap, is_cat=example.image.stem[0].isupper())

    return pets.CATEGORIES, read_scene


def _fingerprint(path: pathlib.Path, contents: Contents) -> str:
    """Changes with the names of the files that are read, the sizes of images and the bytes of labels.

    Not with their times, which copies do not keep.
    """
    images = {example.image for example in contents.examples}
    files = {*images, *contents.files, *(example.label_file for example in contents.examples)}
    digest = hashlib.sha256()
    for file in sorted(files):
        state = file.stat().st_size if file in images else hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path)} {state}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()
