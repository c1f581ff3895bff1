import os
import pathlib
import shutil
import time

from app.cli import InputError
from app.datasets import load, synthetic
from common import data

import numpy as np
import pytest
import tensorflow as tf
import unet_scratch
from own_data import load_data, make


def batches(dataset, count=None):
    pairs = [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count or -1)]
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_synthetic_pipelines():
    pets = load_data("synthetic", 32, 10, limit=25)
    assert pets.counts == {"train": 25, "validation": 25, "test": 25}
    assert pets.class_names == ("pet", "background", "border")
    assert pets.steps_per_epoch == 3
    for dataset, length in ((pets.train.take(3), 30), (pets.validation, 25), (pets.test, 25)):
        images, labels = batches(dataset)
        assert images.shape == (length, 32, 32, 3) and images.dtype == np.uint8
        assert labels.shape == (length, 32, 32) and labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, 1, 2}


def test_splits_share_no_image():
    pets = load.load("synthetic", image_size=32)
    numbers = {split: set(examples.as_numpy_iterator()) for split, examples in pets.splits.items()}
    assert {split: len(part) for split, part in numbers.items()} == {"train": 1440, "validation": 160, "test": 400}
    assert len(set().union(*numbers.values())) == 2000


def test_same_seed_same_batches():
    one, again, other = (load_data("synthetic", 32, 8, seed=seed, limit=20) for seed in (5, 5, 6))
    for split in ("train", "validation"):
        first = batches(getattr(one, split), 3)
        assert same(first, batches(getattr(again, split), 3)) and not same(first, batches(getattr(other, split), 3))


def test_each_epoch_shows_every_image_once_in_a_new_order():
    elements = tf.data.Dataset.range(40)

    def decode(number):
        image = tf.fill((32, 32, 3), tf.cast(number, tf.uint8))
        return image, image[..., :1]

    examples = elements.map(decode)
    train = data.from_datasets(examples, examples, examples, ["class"] * 40, image_size=32, batch_size=8).train
    seen = batches(train, 10)[1][:, 0, 0].reshape(2, 40)
    for epoch in seen:
        assert sorted(epoch) == list(range(40))
    assert list(seen[0]) != list(seen[1])


def test_labels_stay_class_ids_when_resized():
    label = np.zeros((50, 70, 1), np.uint8)
    label[10:40, 20:50] = 2
    image = np.repeat(label, 3, axis=2) * 100
    resized_image, resized = data.resize(image, label, 32)
    assert resized.dtype == tf.uint8 and set(np.unique(resized)) == {0, 2}  # bilinear would make a 1 between them
    assert resized_image.shape == (32, 32, 3) and len(np.unique(resized_image)) > 2


def corner_marked(count):
    """Grey images with a bright left half labelled 1, so that a flip shows in image and label."""
    images = np.full((count, 16, 16, 3), 60, np.uint8)
    images[:, :, :8] = 190
    labels = np.zeros((count, 16, 16), np.uint8)
    labels[:, :, :8] = 1
    return images, labels


def test_images_of_a_batch_are_augmented_independently():
    """Half of them are mirrored, half rotated; some are shown whole, none is zoomed in too far."""
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8), (200, 100, 100))
    labels = data.augment(np.repeat(ramp[..., None], 3, axis=-1), ramp, seed=(0, 0))[1].numpy().astype(int)
    seen = (labels.max(axis=(1, 2)) - labels.min(axis=(1, 2)) + 1) / 100
    assert 20 < np.sum(seen == 1) < 100 and 0.35 < seen.min() < 0.5
    is_mirrored = labels[:, 50, 0] > labels[:, 50, -1]
    is_rotated = (labels != labels[:, :1]).any(axis=(1, 2))
    assert 70 < is_mirrored.sum() < 130 and 70 < is_rotated.sum() < 130
    assert len(np.unique(labels.reshape(200, -1), axis=0)) > 150


@pytest.mark.parametrize("axis", [0, 1])
def test_image_and_label_are_warped_together(axis):
    """Both are ramps along one axis, so each pixel tells where its label must come from."""
    size = 120
    ramp = np.moveaxis(np.broadcast_to(np.arange(size, dtype=np.uint8), (size, size)), -1, axis)
    labels = np.broadcast_to(ramp, (32, size, size))
    # Colours change too, but linearly, so a straight line must fit everywhere.
    images, labels = data.augment(np.repeat(60 + labels[..., None], 3, axis=-1), labels, seed=(0, 1))
    for image, label in zip(images.numpy()[..., 0].astype(float), labels.numpy().astype(float), strict=True):
        kept = (image > 0) & (image < 255)
        slope, offset = np.polyfit(label[kept], image[kept], 1)
        assert np.abs((image[kept] - offset) / slope - label[kept]).max() < 1.5
        assert label.max() - label.min() > 0.35 * size


def test_augmented_labels_stay_class_ids():
    """Large blocks and noise of two classes and ignored pixels: blending would make others."""
    blocks = np.kron(np.random.default_rng(0).choice([0, 2, 255], (64, 4, 4)), np.ones((12, 12))).astype(np.uint8)
    _, labels = data.augment(np.zeros((64, 48, 48, 3), np.uint8), blocks, seed=(0, 0))
    assert set(np.unique(labels)) == {0, 2, 255}


def test_augmentation_varies_over_epochs_and_repeats_with_the_seed():
    pair = corner_marked(4)
    epochs = [data.augment(*pair, seed=(0, step)) for step in range(8)]
    assert len({labels.numpy().tobytes() for _, labels in epochs}) == 8
    flips = {int(labels.numpy()[0, 8, 0]) for _, labels in epochs}
    assert flips == {0, 1}
    assert same(epochs[3], data.augment(*pair, seed=(0, 3)))


def test_the_pipeline_augments_anew_each_epoch():
    image, label = synthetic.draw(0, image_size=32)
    own = tf.data.Dataset.from_tensors((image, label))
    different = {}
    for augmented in (True, False):
        pets = data.from_datasets(own, own, own, "abc", image_size=32, batch_size=1, augmented=augmented)
        labels = batches(pets.train, 6)[1]
        different[augmented] = len(np.unique(labels.reshape(6, -1), axis=0))
    assert different[True] > 3 and different[False] == 1


def drawn(count):
    pairs = zip(*(synthetic.draw(index, image_size=32) for index in range(count)), strict=True)
    return tf.data.Dataset.from_tensor_slices(tuple(map(np.stack, pairs)))


def test_augmented_batches_are_the_same_from_any_step():
    own = drawn(12)
    pets = data.from_datasets(own, own, own, "abc", image_size=32, batch_size=4)
    later = tuple(part[12:] for part in batches(pets.train, 5))  # two batches of four, after three others
    assert same(batches(pets.train_from(3), 2), later)


@pytest.fixture
def limit_memory(monkeypatch, tmp_path):
    """Sets the bytes of free memory; files then are in an empty folder, which is returned."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))

    def limit(free):
        monkeypatch.setattr(data, "free_memory", lambda: free)
        return folder

    return limit


def resident(kind):
    """Bytes of this process' memory, by kind: RssAnon, RssFile."""
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(kind)).split()[1])


@pytest.mark.parametrize("augmented", [True, False])
def test_a_file_gives_the_batches_of_memory(augmented, limit_memory, capsys):
    """From half of the free memory on; of every split, in any epoch, from any step."""
    own = drawn(90)  # more than are written at a time
    half = 90 * 32 * 32 * 4
    seen = []
    for free in (2 * half, 2 * half - 1):
        folder = limit_memory(free)
        options = {"image_size": 32, "batch_size": 8, "seed": 3, "augmented": augmented}
        pets = data.from_datasets(own.take(70), own.skip(70), own.take(9), "abc", **options)
        said = f"the photos take 0.0 GB, more than half of the free memory: they are kept in a file in {folder}\n"
        assert capsys.readouterr().out == (said if free < 2 * half else "")
        parts = (pets.train.take(20), pets.train_from(13).take(4), pets.validation, pets.test)
        seen.append([array for part in parts for array in batches(part)])
        assert not list(folder.iterdir())  # the file has no name, so nothing is left of a killed process
    assert same(*seen)


def test_photos_in_a_file_take_no_memory(limit_memory):
    """They are written and read where they lie, and given back to the system."""
    limit_memory(0)
    count = 2000
    pairs = tf.data.Dataset.range(count).map(
        lambda number: (tf.fill((256, 256, 3), tf.cast(number % 256, tf.uint8)), tf.zeros((256, 256), tf.uint8))
    )
    before = resident("RssAnon"), resident("RssFile")
    arrays = data.read(pairs)
    places = np.arange(count)
    pets = data.from_arrays(*arrays, places, places[:8], pairs.take(8), "ab", batch_size=8, augmented=False)
    seen = [int(number) for images, _ in pets.train.take(count // 8) for number in images[:, 0, 0, 0]]
    assert sorted(seen) == sorted(number % 256 for number in range(count))
    time.sleep(0.5)
    assert resident("RssAnon") - before[0] < 2e8 and resident("RssFile") - before[1] < 1e8  # of 520 MB


def test_own_folder_in_a_file(tmp_path, limit_memory, capsys):
    """Its masks become class ids there, and its test photos are read from there."""
    make(tmp_path / "data", 3, values=(1, 2, 3), count=80)
    seen = []
    for free in (1e9, 1e5):
        limit_memory(free)
        dataset = load.load(str(tmp_path / "data"), image_size=32)
        assert ("kept in a file" in capsys.readouterr().out) == (free < 1e6)
        pets = load.pipelines(dataset, 32, 8, 0)
        parts = (pets.train.take(12), pets.validation, pets.test)
        seen.append([array for part in parts for array in batches(part)])
    assert same(*seen) and set(np.unique(seen[0][1])) == {0, 1, 2}


@pytest.mark.parametrize("finds_out", ["disk_usage", "posix_fallocate"])
def test_no_room_for_the_file(finds_out, command_line, tmp_path, limit_memory, monkeypatch):
    folder = limit_memory(0)

    def fail(*_):
        raise OSError(28, "No space left on device")

    if finds_out == "disk_usage":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    else:
        monkeypatch.setattr(os, "posix_fallocate", fail)
    data_flags = ("--data", make(tmp_path / "data", 3), "--image-size", 64, "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, *data_flags)
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "output").exists()
    assert f"the photos take 0.0 GB, more than half of the free memory, and {folder} has" in err
    assert "set TMPDIR to a folder with more room" in err


def test_free_memory(monkeypatch):
    """That of the machine, or of the container if it has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total / 100 < data.free_memory() < total
    files = {"/proc/meminfo": "MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   50 kB\n"}
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: files.get(str(path)) or path.read_bytes().decode())
    folder = "/sys/fs/cgroup/memory"
    for limit, free in (("max", 51200), ("90000", 51200), ("40960", 20960)):
        files |= {f"{folder}.max": f"{limit}\n", f"{folder}.stat": "anon 20000\nfile 7\ninactive_anon 1\n"}
        assert data.free_memory() == free
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: path.with_name("none").read_bytes())
    assert data.free_memory() == float("inf")  # as on macOS


def test_pipelines_have_threads_of_their_own():
    """Those of TensorFlow may be just one, see device.save_memory."""
    pets = load_data("synthetic", 32, 1, limit=1)
    for batches in (pets.train, pets.train_from(1), pets.test):
        assert batches.options().threading.private_threadpool_size == os.cpu_count()


def test_drawn_pets_are_not_augmented():
    images, _ = batches(load_data("synthetic", 32, 1, limit=1).train, 3)
    drawings = [synthetic.draw(index, image_size=32)[0] for index in range(9)]
    assert all(any(np.array_equal(image, drawing) for drawing in drawings) for image in images)


def own_examples(count, size=(20, 30), dtype=np.uint8, channel=()):
    """Images filled with their number; even ones are class 1."""
    numbers = np.arange(count)[:, None, None]
    images = np.broadcast_to(numbers[..., None], (count, *size, 3)).astype(np.uint8)
    return images, np.broadcast_to(1 - numbers % 2, (count, *size)).reshape(count, *size, *channel).astype(dtype)


@pytest.mark.parametrize("channel", [(), (1,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_your_own_tf_data(dtype, channel):
    own = tf.data.Dataset.from_tensor_slices(own_examples(20, dtype=dtype, channel=channel))
    pets = data.from_datasets(own.take(13), own.skip(13).take(3), own.skip(16), "ab", image_size=32, batch_size=4)
    assert pets.class_names == ("a", "b") and pets.counts == {"train": 13, "validation": 3, "test": 4}
    assert pets.steps_per_epoch == 4
    images, labels = batches(pets.test)
    assert images.shape == (4, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (4, 32, 32) and labels.dtype == np.uint8
    assert list(images[:, 5, 5, 0]) == [16, 17, 18, 19] and list(labels[:, 5, 5]) == [1, 0, 1, 0]
    assert same(batches(pets.train, 5), batches(pets.train, 5))
    assert batches(pets.train, 5)[0].shape == (20, 32, 32, 3)


def test_labels_without_a_class_are_ignored():
    images, labels = own_examples(4, dtype=np.int64)
    labels[:2], labels[2:] = -1, 255
    own = tf.data.Dataset.from_tensor_slices((images, labels))
    assert set(batches(data.from_datasets(own, own, own, "ab", image_size=32, batch_size=4).test)[1].ravel()) == {255}


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 38), (np.uint16, 300), (np.int32, 256), (np.int8, -2)])
def test_labels_that_are_neither_class_ids_nor_ignored_are_an_error(dtype, value):
    """As the grey of a palette's colours: shown, and neither trained with nor ignored."""
    images, labels = own_examples(4, dtype=dtype)
    own = tf.data.Dataset.from_tensor_slices((images, labels.copy()))
    labels[1, 3, 5] = value
    strange = tf.data.Dataset.from_tensor_slices((images, labels))
    for split in range(2):
        splits = [strange if place == split else own for place in range(3)]
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"labels outside of the 2 classes.*\[{value}\]"):
            data.from_datasets(*splits, "ab", image_size=32, batch_size=2)
    pets = data.from_datasets(own, own, strange, "ab", image_size=32, batch_size=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"test: labels outside.*\[{value}\]"):
        batches(pets.test)


def starts(length, size, step):
    """Where tiles begin: another one while the last does not reach the end."""
    found = [0]
    while found[-1] + size < length:
        found.append(found[-1] + step)
    return found


@pytest.mark.parametrize("step", [None, 16, 7])
@pytest.mark.parametrize("shape", [(70, 101), (64, 96), (65, 33), (5, 80), (1, 1)])
@pytest.mark.parametrize(
    ("dtype", "channel", "ignored"), [(np.uint8, (), 255), (np.int32, (1,), 255), (np.int8, (), -1)]
)
def test_tiles_match_numpy(shape, step, dtype, channel, ignored):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    label = rng.integers(-1 if dtype != np.uint8 else 0, 3, (*shape, *channel)).astype(dtype)
    tiles = data.tiles(tf.data.Dataset.from_tensors((image, label)), 32, step)
    assert [tuple(spec.shape) for spec in tiles.element_spec] == [(32, 32, 3), (32, 32, *channel)]
    places = [starts(length, 32, step or 32) for length in shape]
    margins = [(0, max(0, part[-1] + 32 - length)) for part, length in zip(places, shape, strict=True)]
    image = np.pad(image, (*margins, (0, 0)), "symmetric")  # mirrored, more than once if it is smaller than a tile
    label = np.pad(label, (*margins, *((0, 0) for _ in channel)), constant_values=ignored)
    expected = [(top, left) for top in places[0] for left in places[1]]
    assert data.tile_counts(np.array(shape), 32, step or 32).numpy().tolist() == list(map(len, places))
    for (own_image, own_label), (top, left) in zip(tiles.as_numpy_iterator(), expected, strict=True):
        np.testing.assert_array_equal(own_image, image[top : top + 32, left : left + 32])
        np.testing.assert_array_equal(own_label, label[top : top + 32, left : left + 32])
        assert own_label.dtype == dtype


@pytest.mark.parametrize("step", [0, -1, 33])
def test_steps_that_leave_gaps_are_refused(step):
    with pytest.raises(ValueError, match=f"a step of {step}"):
        data.tiles(tf.data.Dataset.from_tensor_slices(own_examples(1)), 32, step)


def test_tiles_of_your_own_tf_data_stay_as_they_are():
    """Not resized; what a tile lacks is ignored, also where augmentation mirrors it into the picture."""
    own = tf.data.Dataset.from_tensor_slices(own_examples(4, size=(40, 70)))
    train, rest = data.tiles(own, 32, step=16), data.tiles(own, 32)
    pets = data.from_datasets(train, rest, rest, "ab", image_size=32, batch_size=12)
    assert pets.counts == {"train": 4 * 2 * 4, "validation": 4 * 2 * 3, "test": 4 * 2 * 3}
    images, labels = batches(pets.test)
    known = labels != 255
    assert known.sum() == 4 * 40 * 70
    np.testing.assert_array_equal(labels[known], 1 - images[known][:, 0] % 2)
    assert set(np.unique(batches(pets.train, 6)[1])) == {0, 1, 255}


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.9])
def test_a_split_that_leaves_nothing(fraction):
    with pytest.raises(ValueError, match="leaves nothing"):
        data.split(tf.data.Dataset.range(3), fraction)


def test_your_own_tf_data_of_unknown_length_and_varying_size():
    def generate():
        for number in range(7):
            yield np.full((20 + number, 30, 3), number, np.uint8), np.zeros((20 + number, 30), np.int32)

    signature = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((None, None), tf.int32))
    own = tf.data.Dataset.from_generator(generate, output_signature=signature)
    train, test = data.split(own, fraction=0.3, seed=0)
    pets = data.from_datasets(train, test, test, "ab", image_size=32, batch_size=2)
    assert pets.counts == {"train": 5, "validation": 2, "test": 2}
    assert sorted(batches(pets.train, 3)[0].shape) == sorted((6, 32, 32, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: own.repeat(), "validation: the data set repeats forever"),
        (lambda own: own.take(0), "validation: the data set is empty"),
        (lambda own: own.batch(2), "validation: an element has to be"),
        (lambda own: own.map(lambda image, label: (tf.cast(image, tf.float32) / 255, label)), "uint8"),
        (lambda own: own.map(lambda image, label: (image, tf.cast(label, tf.float32))), "integers"),
        (lambda own: own.map(lambda image, label: (image[..., :1], label)), "uint8"),
        (lambda own: own.map(lambda image, label: {"image": image, "label": label}), "an element has to be"),
    ],
)
def test_unusable_tf_data_is_refused(change, words):
    own = tf.data.Dataset.from_tensor_slices(own_examples(4))
    with pytest.raises(ValueError, match=words):
        data.from_datasets(own, change(own), own, "ab", image_size=32, batch_size=2)


def test_unknown_data_set():
    with pytest.raises(InputError, match="cats_and_cars"):
        load_data("cats_and_cars", 32, 8)


def test_real_pets(shared):
    pets = load_data("oxford_iiit_pet", 64, 32, data_dir=str(shared / "tfds"))
    assert pets.counts == {"train": 3312, "validation": 368, "test": 3669}
    images, labels = batches(pets.test, 12)
    assert images.shape[1:] == (64, 64, 3) and images.std() > 40
    fractions = np.bincount(labels.ravel(), minlength=3) / labels.size
    np.testing.assert_allclose(fractions, [0.30, 0.58, 0.12], atol=0.03)
