"""What a detector is trained with: composed scenes, their targets, the network, and its export."""

import itertools
import tracemalloc

from app.cli import InputError
from app.datasets import Masks, empty_scene, load, pets, run_lengths
from app.detect import detector, evaluation, instances, network, scenes

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from own_data import annotate, change, make, write
from pycocotools import mask as coco_masks

SIDE = 64
COLORS = np.array([(230, 40, 40), (40, 200, 60), (50, 60, 230), (220, 210, 30)], np.uint8)


def drawn_scene(number, height=60, width=90):
    """One or two discs of one colour each on grey."""
    rng = np.random.default_rng(number)
    image, masks, classes = np.full((height, width, 3), 128, np.uint8), [], []
    y, x = np.mgrid[:height, :width]
    for k in range(rng.integers(1, 3)):
        radius = rng.uniform(9, 14)
        mask = (y - rng.uniform(15, height - 15)) ** 2 + (x - (25 + 40 * k)) ** 2 < radius**2
        color = rng.integers(len(COLORS))
        image[mask] = COLORS[color]
        masks.append(mask)
        classes.append(1 + color % 2)
    return scenes.Scene(image, np.int32(classes), np.stack(masks))


def composed(number):
    rng = np.random.default_rng([0, number])
    return scenes.compose(rng, drawn_scene(number), lambda rng: drawn_scene(int(rng.integers(100))), SIDE)


def test_composed_scenes_keep_masks_and_pixels_together(monkeypatch):
    monkeypatch.setattr(scenes, "_vary_colors", lambda _, image: image)
    counts = []
    for number in range(60):
        scene = composed(number)
        assert scene.image.shape == (SIDE, SIDE, 3) and scene.masks.shape == (len(scene.classes), SIDE, SIDE)
        assert scene.masks.sum(0).max(initial=0) <= 1  # what is in front hides what is behind
        for category, mask in zip(scene.classes, scene.masks, strict=True):
            distance = np.abs(scene.image[mask].astype(int)[:, None] - COLORS).sum(-1)
            color = np.bincount(distance.argmin(1)).argmax()
            assert category == 1 + color % 2 and (distance.argmin(1) == color).mean() > 0.7
        colored = np.ptp(scene.image.astype(int), axis=-1) > 60
        assert (colored & ~scene.masks.any(0)).sum() <= 0.25 * colored.sum() + 20  # edges, and what is too small
        counts.append(len(scene.classes))
    assert min(counts) <= 1 and max(counts) >= 4
    np.testing.assert_array_equal(composed(7).image, composed(7).image)


def test_composed_scenes_have_overlaps_of_all_degrees_and_instances_behind_others(monkeypatch):
    overlaps = []
    for number in range(200):
        scene = composed(number)
        if len(scene.masks) > 1:
            boxes = coco_masks.toBbox(list(scene.regions))
            overlaps += coco_masks.iou(boxes, boxes, [0] * len(boxes))[np.triu_indices(len(boxes), 1)].tolist()
    counts, _ = np.histogram(overlaps, (1e-9, 0.1, 0.3, 0.5, 1))
    assert counts.min() > 0.02 * counts.sum()

    scene = drawn_scene(1, SIDE, SIDE)
    for fraction in (0, 1):
        monkeypatch.setattr(scenes, "FRACTION_BEHIND", fraction)
        rng = np.random.default_rng(0)
        pasted = [scenes._paste(rng, scene, drawn_scene(0)) for _ in range(40)]
        keeps_all = [(one.masks[: len(scene.masks)] == scene.masks).all() for one in pasted if len(one.masks) > 1]
        assert all(keeps_all) if fraction else not all(keeps_all)


def test_instances_too_small_to_see_are_left_out():
    """One thinner than a pixel of the scene, or smaller than one of the network's."""
    image, line, speck = np.zeros((900, 900, 3), np.uint8), np.eye(900, dtype=bool), np.zeros((900, 900), bool)
    speck[400, 401] = True
    scene = scenes.Scene(image, np.int32([1, 2]), np.stack([line, speck]))
    assert scenes.prepare(scene, SIDE).classes.tolist() in ([1], [])
    for number in range(40):
        other = scenes.compose(np.random.default_rng(number), scene, lambda rng: scene, SIDE)
        assert len(scenes.targets(other)[0]) == len(other.classes) == other.masks.any((1, 2)).sum()


def test_crowds_are_filled_in_for_training_and_count_neither_way():
    image = np.full((40, 60, 3), 90, np.uint8)
    image[:, 40:] = 255
    mask, crowd = np.zeros((1, 40, 60), bool), np.zeros((40, 60), bool)
    mask[0, 5:35, 5:25] = crowd[:, 40:] = True
    scene = scenes.Scene(image, np.int32([1]), mask, crowd)
    ready = scenes.prepare(scene, SIDE)
    assert ready.crowd is None and ready.image.mean((1, 2)).max() < 150 and ready.masks.sum() == mask.sum()
    inside = np.zeros((40, 60), bool)
    inside[10:30, 45:58] = True
    box = (10 / 40, 45 / 60, 30 / 40, 58 / 60)
    wrong = instances.Instance(10, "disc", 1.0, box, inside, 0, 0)
    for one, expected in ((scene, 1), (scene._replace(crowd=None), 0.5)):
        right = list(as_instances(one))
        scores = evaluation.average_precision([lambda one=one: one], [10, 20], lambda _, right=right: [wrong, *right])
        assert list(scores.values()) == pytest.approx([expected] * 6)


def test_as_many_detections_count_as_there_are_instances():
    """COCO's own limit, 100, gives a perfect detector of 225 instances an average precision of 0.45."""
    masks = np.zeros((225, 90, 90), bool)
    for number in range(225):
        row, column = 6 * (number // 15), 6 * (number % 15)
        masks[number, row : row + 4, column : column + 4] = True
    scene = scenes.Scene(np.zeros((90, 90, 3), np.uint8), np.ones(225, np.int32), masks)
    perfect = [instances.of_mask(mask, "disc")._replace(category_id=10, score=1.0) for mask in masks]
    for found, expected in ((perfect, 1.0), (perfect[:112], 0.5)):
        scores = evaluation.average_precision([lambda: scene], [10], lambda _, found=found: found)
        assert scores["mask_ap"] == pytest.approx(expected, abs=0.01) == scores["box_ap"]


def test_targets_are_tight_boxes_and_the_masks_in_them():
    masks = np.zeros((1, 40, 50), bool)
    masks[0, 10:30, 5:25] = True
    masks[0, 10:20, 5:15] = False
    boxes, classes, crops = scenes.targets(scenes.Scene(np.zeros((40, 50, 3), np.uint8), np.int32([2]), masks))
    assert boxes.tolist() == [[10, 5, 30, 25]] and classes.tolist() == [2]
    half = scenes.MASK_SIDE // 2
    assert crops[0, : half - 3, : half - 3].max() == 0 and crops[0, half + 3 :].min() == 1
    empty = scenes.targets(empty_scene(np.zeros((40, 50, 3), np.uint8)))
    assert [part.shape for part in empty] == [(0, 4), (0,), (0, scenes.MASK_SIDE, scenes.MASK_SIDE)]


def small_task():
    return network.task(SIDE, 3, filters=16, proposals=40, detections=5, weight_decay=4e-5)


def test_the_backbone_computes_what_keras_does(tmp_path):
    """With the weights of keras.applications, here random ones."""
    encoder = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    rng = np.random.default_rng(0)
    encoder.set_weights([array + 0.02 * np.abs(rng.normal(size=array.shape)) for array in encoder.get_weights()])
    encoder.save_weights(tmp_path / "encoder.weights.h5")
    model = small_task().build_model()
    network.load_encoder_weights(model, str(tmp_path / "encoder.weights.h5"))
    pixels = rng.uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    ours = model.backbone(pixels, training=False)
    for level, layer in (("3", "block_5_add"), ("4", "block_12_add"), ("5", "block_16_project_BN")):
        theirs = np.array(keras.Model(encoder.input, encoder.get_layer(layer).output)(pixels))
        assert np.abs(theirs).max() > 0.01
        np.testing.assert_allclose(ours[level], theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.slow
def test_steps_and_an_export(tmp_path):
    """The losses fall, and mask_rcnn_hub can use what comes out, for photos of any shape."""
    task = small_task()
    model = task.build_model()
    network.load_encoder_weights(model, None)
    optimizer = tf_keras.optimizers.AdamW(3e-3, global_clipnorm=10.0)
    step = network.make_train_step(task, model, optimizer)
    losses = []
    for images, labels in network.batches(composed, 0, SIDE, 2, 16).take(12):
        assert images.dtype == tf.uint8 and labels["gt_masks"].shape[1:] == (16, 56, 56)
        losses.append({name: float(value) for name, value in step(images, labels).items()})
    assert all(np.isfinite(list(entry.values())).all() for entry in losses)
    first, last = (np.mean([entry["model_loss"] for entry in part]) for part in (losses[:3], losses[-3:]))
    assert last < 0.8 * first

    detect = network.detector(model, SIDE, (17, 90))
    network.save(detect, tmp_path / "model")
    weights = sum(np.size(variable) for variable in model.variables)
    assert (tmp_path / "model" / "saved_model.pb").stat().st_size < 2 * weights + 1.2e6  # float16, and the graph
    predict = detector.from_saved_model(str(tmp_path / "model"))
    for shape in ((60, 90, 3), (300, 40, 3), (1, 1, 3)):
        photo = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        outputs = {name: tensor.numpy() for name, tensor in predict(photo).items()}
        exact = detect(tf.constant(photo[np.newaxis]))  # in float32
        for name in ("detection_scores", "detection_boxes"):
            np.testing.assert_allclose(outputs[name][0, :1], exact[name][0, :1], atol=0.01)
        assert outputs["detection_masks"].shape == (1, 5, 56, 56)
        assert set(outputs["detection_classes"][0]) <= {17, 90}
        for name in ("detection_boxes", "detection_scores", "detection_masks"):
            assert outputs[name].min() >= 0 and outputs[name].max() <= 1
        found = detector.detect(predict, photo, {17: "red", 90: "green"}, 0.0, 5)
        assert all(instance.name in ("red", "green") for instance in found)


def as_instances(scene, shift=0):
    """The true instances of a scene as a detector would give them, moved to the right."""
    for number, mask in zip(scene.classes, np.roll(scene.masks, shift, axis=2), strict=True):
        yield instances.of_mask(mask, "disc")._replace(category_id=10 * int(number), score=0.9)


def test_average_precision():
    """Perfect, moved by a fifth of a square (IoU 2/3: four of ten thresholds), of the wrong class, and none."""
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 5:35, 10:40] = True
    one = scenes.Scene(np.zeros((40, 60, 3), np.uint8), np.int32([1]), mask)
    other = one._replace(classes=np.int32([2]))
    names = [f"{kind}_{score}" for kind in ("box", "mask") for score in ("ap", "ap50", "ap75")]
    for detections, expected in (
        ([*as_instances(one), *as_instances(other)], [1] * 6),
        ([*as_instances(one, 6), *as_instances(other, 6)], [0.4, 1, 0] * 2),
        ([*as_instances(other), *as_instances(one)], [0] * 6),
        ([], [0] * 6),
    ):
        left = iter(detections)
        scores = evaluation.average_precision(
            [lambda: one, lambda: other], (10, 20), lambda photo, left=left: [*itertools.islice(left, 1)]
        )
        assert list(scores) == names and list(scores.values()) == pytest.approx(expected)


def test_scenes_of_annotations(tmp_path):
    """Crowds are left out; the ids are those of the file, unless a label map could not have them."""
    bugs = load.load(str(write(tmp_path / "bugs", "a file a split")), for_instances=True)
    assert bugs.categories == {3: "leaf", 90: "bug"} and bugs.max_instances == 4
    assert [len(load.scenes(bugs, split)) for split in ("train", "validation", "test")] == [14, 3, 3]
    for number, read in enumerate(load.scenes(bugs, "train")):
        scene = read()
        assert scene.classes.tolist() == [1, 2, 2] and scene.image.shape[:2] == scene.masks.shape[1:]
        outline = next(one for one in annotate(number) if one["category_id"] == 3)["segmentation"][0]
        rows, columns = np.nonzero(scene.masks[0])
        assert abs(columns.min() - min(outline[::2])) <= 1 and abs(rows.max() - max(outline[1::2])) <= 1
    own = load.load(str(write(tmp_path / "one file")), limit=4, for_instances=True)
    assert [len(load.scenes(own, split)) for split in ("train", "validation", "test")] == [4, 2, 2]
    with pytest.raises(InputError, match="masks do not separate instances"):
        load.load(str(make(tmp_path / "masks", 3)), for_instances=True)
    with pytest.raises(InputError, match="no such data set or folder"):
        load.load("synthetic", for_instances=True)


def test_run_lengths_give_the_scenes_and_scores_of_masks(tmp_path):
    """Also where there are crowds, and none of the instances; detections are moved by a pixel."""
    bugs = load.load(str(write(tmp_path / "bugs", "a file a split")), for_instances=True)
    lazy = [read() for read in load.scenes(bugs, "train")]
    lazy.append(lazy[0]._replace(classes=np.zeros(0, np.int32), masks=Masks([], lazy[0].image.shape[:2])))
    whole = [one._replace(masks=np.array(list(one.masks), bool).reshape(one.masks.shape)) for one in lazy]
    assert any(one.crowd is not None for one in lazy) and all(isinstance(one.masks, Masks) for one in lazy)
    scores = []
    for parts in (lazy, whole):
        found = iter([list(as_instances(one, 1)) for one in whole])
        reads = [lambda one=one: one for one in parts]
        scores.append(evaluation.average_precision(reads, [10, 20], lambda _, found=found: next(found)))
    assert scores[0] == scores[1] and 0 < scores[0]["mask_ap"] < 1
    for one, other in zip(lazy, whole, strict=True):
        for part, expected in zip(scenes.prepare(one, 32), scenes.prepare(other, 32), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_masks_of_a_large_photo_are_never_in_memory_together():
    """40 of a million pixels each are prepared, detected and scored in less than 25 MB."""
    count, side = 40, 1000
    region = run_lengths(np.pad(np.ones((100, 200), bool), ((300, 600), (100, 700))))
    photo = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    scene = scenes.Scene(photo, np.ones(count, np.int32), Masks([region] * count, (side, side)))
    outputs = {
        "detection_boxes": np.tile(np.float32([0.01, 0.01, 0.99, 0.99]), (1, count, 1)),
        "detection_classes": np.ones((1, count), np.float32),
        "detection_scores": np.ones((1, count), np.float32),
        "detection_masks": np.ones((1, count, 33, 33), np.float32),
        "num_detections": np.float32([count]),
    }
    outputs = {name: tf.constant(value) for name, value in outputs.items()}
    tracemalloc.start()
    try:
        assert len(scenes.prepare(scene, SIDE).classes) == count
        scores = evaluation.average_precision(
            [lambda: scene], [1], lambda photo: detector.detections(lambda _: outputs, photo, {1: "disc"}, 0.5, count)
        )
        truth = [instances.cropped(instances.of_mask(mask, "")) for mask in scene.masks]
        assert tracemalloc.get_traced_memory()[1] < 25e6
    finally:
        tracemalloc.stop()
    assert scores["mask_ap50"] == 0 and {one.mask.shape for one in truth} == {(100, 200)}
    uncropped = instances.of_mask(scene.masks[0], "disc")
    np.testing.assert_array_equal(
        instances.overlay(photo, [uncropped]), instances.overlay(photo, [instances.cropped(uncropped)])
    )


def test_categories_without_instances_are_left_out(tmp_path, capsys):
    folder = write(tmp_path / "bugs", "a file a split")
    change(folder / "train.json", lambda content: content["categories"].append({"id": 7, "name": "stone"}))
    bugs = load.load(str(folder), for_instances=True)
    assert bugs.categories == {3: "leaf", 90: "bug"}
    assert load.scenes(bugs, "train")[0]().classes.tolist() == [1, 2, 2]
    out = capsys.readouterr().out.splitlines()
    assert f"--data {folder}: categories without an instance to train with, left out: stone" in out
    change(folder / "train.json", lambda content: [one.update(iscrowd=1) for one in content["annotations"]])
    with pytest.raises(InputError, match="no category has an instance to train with"):
        load.load(str(folder), for_instances=True)


def test_scenes_of_pets(shared, tmp_path):
    """One instance, whose outline is the middle of the border; at 128 px also from tensorflow-datasets."""
    own = load.load(str(shared / "pets_raw"), for_instances=True)
    test = load.scenes(own, "test")
    assert own.categories == {17: "cat", 18: "dog"} and len(test) == 30
    kinds = set()
    for read in test[::6]:
        (mask,), (number,) = read().masks, read().classes
        kinds.add(int(number))
        assert 0.02 < mask.mean() < 0.98
    assert kinds == {1, 2}
    label = np.ones((21, 21), np.uint8)
    label[5:16, 5:16], label[7:14, 7:14] = 2, 0  # a border of two pixels
    (mask,) = pets.scene(np.zeros((21, 21, 3), np.uint8), label, is_cat=True).masks
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(6, 15))
    whole = load.load("oxford_iiit_pet", data_dir=str(shared / "tfds"), limit=3, for_instances=True)
    train = load.scenes(whole, "train")
    assert len(train) == 3 and train[0]().image.shape == (128, 128, 3)
