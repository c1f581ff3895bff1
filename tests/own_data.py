"""Small folders of own data, with masks or with COCO annotations."""

import json

from app.datasets import folder as folders
from app.datasets import load

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

WIDTH, HEIGHT = 56, 40
NAMES = {3: "leaf", 90: "bug"}  # with gaps in the ids
CLASSES = ("background", "leaf", "bug")
COLORS = np.array([(40, 60, 160), (60, 190, 70), (220, 60, 40)], np.uint8)
LAYOUTS = {  # the annotation file of each split, beside the images or above them
    "one file": {"annotations.json": range(20)},
    "a file a split": {"train.json": range(14), "valid.json": range(14, 17), "test.json": range(17, 20)},
    "roboflow": {
        f"{split}/_annotations.coco.json": numbers
        for split, numbers in (("train", range(14)), ("valid", range(14, 17)), ("test", range(17, 20)))
    },
}


def annotate(number):
    """The annotations of a scene: a leaf as a polygon, bugs on it as run lengths, in some a crowd of bugs."""
    rng = np.random.default_rng(number)
    left, top = rng.integers(2, 12, 2).tolist()
    leaf = [left, top, left + 30.5, top + 2.25, left + 34, top + 22, left + 4, top + 24.75]
    frame = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    frame[0, top + 4 : top + 12, left + 6 : left + 14] = 1
    frame[1, top + 10 : top + 18, left + 12 : left + 24] = 1
    frame[2, HEIGHT - 6 :, :9] = 1
    compressed = coco_masks.encode(np.asfortranarray(frame[0]))
    flat = frame[1].ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=0))  # the first pixel is not set
    outlines = [
        (3, [leaf], 0),
        (90, {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}, 0),
        (90, {"size": [HEIGHT, WIDTH], "counts": np.diff(starts, prepend=0, append=flat.size).tolist()}, 0),
    ]
    if number % 3 == 0:
        crowd = coco_masks.encode(np.asfortranarray(frame[2]))["counts"].decode()
        outlines.append((90, {"size": [HEIGHT, WIDTH], "counts": crowd}, 1))
    return [
        {"category_id": category, "segmentation": outline, "iscrowd": crowd} for category, outline, crowd in outlines
    ]


def truth(annotations):
    """The label map as pycocotools' masks give it."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    masks = []
    for one in annotations:
        outline = one["segmentation"]
        if isinstance(outline, list):
            region = coco_masks.merge(coco_masks.frPyObjects(outline, HEIGHT, WIDTH))
        elif isinstance(outline["counts"], list):
            region = coco_masks.frPyObjects(outline, HEIGHT, WIDTH)
        else:
            region = outline
        masks.append((coco_masks.decode(region), 255 if one["iscrowd"] else CLASSES.index(NAMES[one["category_id"]])))
    for mask, value in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        label[mask == 1] = value
    return label


def write(folder, layout="one file"):
    """Writes a data set of twenty drawn scenes."""
    for name, numbers in LAYOUTS[layout].items():
        path = folder / name
        images = path.parent if layout == "roboflow" else folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in NAMES.items()]}
        if layout == "roboflow":
            content["categories"] = [{"id": 0, "name": "bugs", "supercategory": "none"}] + [
                {**category, "supercategory": "bugs"} for category in content["categories"]
            ]
        for number in numbers:
            annotations = annotate(number)
            pixels = COLORS[np.minimum(truth(annotations), 2)].astype(int)
            noise = np.random.default_rng(number).integers(-15, 15, pixels.shape)
            Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(images / f"scene {number}.png")
            content["images"].append(
                {"id": number + 100, "file_name": f"scene {number}.png", "width": WIDTH, "height": HEIGHT}
            )
            for annotation in annotations:
                identity = {"id": len(content["annotations"]) + 1, "image_id": number + 100}
                content["annotations"].append({**identity, **annotation})
        path.write_text(json.dumps(content))
    return folder


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def draw(classes, number, height=40, width=56):
    """An image with one region per class, and its mask with ids from 0."""
    rng = np.random.default_rng(number)
    label = np.zeros((height, width), np.uint8)
    for index in range(1, classes):
        left = (index - 1) * width // (classes - 1)
        top = rng.integers(0, height // 2)
        label[top : top + height // 2, left : left + width // classes] = index
    colors = np.random.default_rng(0).integers(0, 255, (classes, 3))
    return (colors[label] + rng.integers(-9, 9, (*label.shape, 3))).clip(0, 255).astype(np.uint8), label


def make(folder, classes, count=20, values=None, kind="L", names=None, masks_in="masks"):
    """Writes a data set; `values` maps class ids to mask values."""
    values = (
        np.arange(256, dtype=np.uint8) if values is None else np.array([*values, *range(len(values), 256)], np.uint8)
    )
    (folder / "images").mkdir(parents=True)
    (folder / masks_in).mkdir(parents=True)
    for number in range(count):
        picture, label = draw(classes, number)
        Image.fromarray(picture).save(folder / "images" / f"{number:02}.jpg", quality=95)
        mask = Image.fromarray(values[label])
        if kind == "P":
            mask.putpalette(np.random.default_rng(1).integers(0, 255, 768, dtype=np.uint8).tobytes())
        mask.save(folder / masks_in / f"{number:02}.png")
    if names:
        (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


def load_data(data, image_size, batch_size, *, seed=0, **options):
    """The pipelines of a data set, as a run has them."""
    dataset = load.load(data, seed=seed, image_size=image_size, **options)
    return load.pipelines(dataset, image_size, batch_size, seed)


def scan(folder):
    """What a folder holds, checked."""
    return folders.scan(folder, folders.read(folder))[0]
