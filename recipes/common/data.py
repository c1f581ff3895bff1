"""Input pipelines: images and label maps for training, validation and test, from any `tf.data` source.

    train, validation = data.split(examples, fraction=0.1, seed=0)
    pets = data.from_datasets(train, validation, test, ("pet", "background", "border"), image_size=256, batch_size=16)
    model.fit(pets.train, steps_per_epoch=pets.steps_per_epoch, validation_data=pets.validation)

Label maps hold class ids from 0 and are only ever resized with nearest neighbour: bilinear resizing would create
fractional classes. Images stay uint8 up to the model, a quarter of the memory of float32.
"""

import contextlib
import math
import mmap
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm


class Data(NamedTuple):
    """Three pipelines of (images, labels), both uint8: [B, H, W, 3] in 0..255, and [B, H, W].

    `train` repeats forever in full batches; every epoch of `steps_per_epoch` batches is shuffled (and augmented) anew.
    `validation` and `test` are one pass each, in a fixed order, without augmentation.
    """

    class_names: tuple[str, ...]
    counts: dict[str, int]  # images of each split
    steps_per_epoch: int
    train_from: Callable[[int], tf.data.Dataset]  # `train` from this batch on
    validation: tf.data.Dataset
    test: tf.data.Dataset

    @property
    def train(self) -> tf.data.Dataset:
        return self.train_from(0)


class FileArray:
    """An array uint8 [N, ...] in a file without a name, which is gone when the process ends, however it ends.

    It has what the pipelines need of a tf.Variable.
    """

    def __init__(self, shape: Sequence[int], folder: str):
        size = math.prod(shape)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with the array
        weakref.finalize(self, self._file.close)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(self._file.fileno(), 0, size)
        self._file.truncate(size)
        mapped = mmap.mmap(self._file.fileno(), size)
        array = np.frombuffer(mapped, np.uint8).reshape(shape)
        with tf.device("CPU"):
            # Nothing is copied here; of a tensor, unlike of a variable, each pipeline would make a copy.
            self._variable = tf.Variable(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))
        self.shape = self._variable.shape
        threading.Thread(target=_release_pages, args=[weakref.ref(mapped)], daemon=True).start()

    def sparse_read(self, places: tf.Tensor) -> tf.Tensor:
        """The elements at these places."""
        return tf.gather(self._variable.value(), places)  # its own sparse_read would copy all of it once

    def scatter_update(self, rows: tf.IndexedSlices) -> None:
        """Overwrites the elements at the places `rows.indices`."""
        for place, row in zip(rows.indices.numpy().tolist(), np.asarray(rows.values), strict=True):
            self._file.seek(place * row.nbytes)
            self._file.write(row)  # into mapped memory, it would end the process when the disk is full
        self._file.flush()


def _release_pages(reference: weakref.ref) -> None:
    """Again and again, leaves what was read of a mapped file to the system: it would count as the process' memory."""
    while mapped := reference():
        mapped.madvise(mmap.MADV_DONTNEED)
        del mapped
        time.sleep(0.2)


Array = tf.Variable | FileArray  # in memory or in a file


def from_datasets(
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    test: tf.data.Dataset,
    class_names: Sequence[str],
    *,
    image_size: int,
    batch_size: int,
    seed: int = 0,
    augmented: bool = True,
) -> Data:
    """Builds the pipelines from your own finite, unbatched data sets.

    Args:
      train, validation, test: pairs of an image uint8 [H, W, 3], 0..255, of any size, and its label map, integers
        [H, W] or [H, W, 1]: class ids; 255 or -1, which becomes 255: losses.py and scores.py ignore it.
      class_names: one name for each class id.
      image_size: side in pixels; images (bilinear) and label maps (nearest neighbour) are resized to it.
      batch_size: images in a batch.
      seed: fixes the order and the augmentation; the same seed gives the same batches.
      augmented: whether training images go through `augment`.
    Raises:
      ValueError: if a data set is empty, repeats forever, or holds something else.
      tf.errors.InvalidArgumentError: for other labels, which it shows; in the test split, when that is read.
      MemoryError: as `read`.
    """
    pairs = {}
    for name, examples in {"train": train, "validation": validation, "test": test}.items():
        if not _is_pair(examples.element_spec):
            wanted = "an image uint8 [H, W, 3] and labels [H, W] of integers"
            raise ValueError(f"{name}: an element has to be {wanted}; it is {examples.element_spec}")
        count = tf.data.experimental.assert_cardinality(_count(examples, name))
        checked = examples.map(_check_labels(name, len(class_names)), num_parallel_calls=tf.data.AUTOTUNE)
        pairs[name] = resized(checked, image_size).apply(count)
    images, labels = read(pairs["train"].concatenate(pairs["validation"]))
    train_places, validation_places = np.split(np.arange(images.shape[0]), [len(pairs["train"])])
    return from_arrays(
        images,
        labels,
        train_places,
        validation_places,
        pairs["test"],
        class_names,
        batch_size=batch_size,
        seed=seed,
        augmented=augmented,
    )


def from_arrays(
    images: Array,
    labels: Array,
    train: np.ndarray,
    validation: np.ndarray,
    test: tf.data.Dataset,
    class_names: Sequence[str],
    *,
    batch_size: int,
    seed: int = 0,
    augmented: bool = True,
) -> Data:
    """Builds the pipelines from images that are read already.

    Args:
      images, labels: uint8 [N, H, W, 3] and [N, H, W], as from `read`.
      train, validation: the places of their images, integers.
      test: pairs of known number, as from `resized`; they are read when they are needed.
      class_names, batch_size, seed, augmented: as for `from_datasets`.
    """

    def take(places):
        return images.sparse_read(places), labels.sparse_read(places)

    def train_from(step):
        def load(step, places):
            return augment(*take(places), seed=(seed, step)) if augmented else take(places)

        def shuffled(epoch):  # depends on (seed, epoch) alone, so training can resume at any step
            order = tf.random.experimental.stateless_shuffle(tf.range(len(train)), seed=(seed, epoch))
            return tf.data.Dataset.from_tensor_slices(tf.gather(train, order))

        return (
            tf.data.Dataset.counter()
            .flat_map(shuffled)
            .batch(batch_size, drop_remainder=True)
            .enumerate()
            .skip(step)  # skips places only, before any image is touched
            .map(load, num_parallel_calls=tf.data.AUTOTUNE)  # not in memory, where augmentation would be frozen
            .prefetch(tf.data.AUTOTUNE)
        )

    counts = {"train": len(train), "validation": len(validation), "test": len(test)}
    steps_per_epoch = -(-counts["train"] // batch_size)
    validation = tf.data.Dataset.from_tensor_slices(validation).batch(batch_size).map(take)
    validation, test = (batches.prefetch(tf.data.AUTOTUNE) for batches in (validation, test.batch(batch_size)))
    return Data(tuple(class_names), counts, steps_per_epoch, train_from, validation, test)


def split(examples: tf.data.Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Holds out a random, seeded fraction of a finite data set; returns the rest and the held-out part.

    Split before decoding and shuffling: each part reads all elements, which have to come in the same order each time,
    and drops those of the other. Raises ValueError if either part would be empty.
    """
    count = _count(examples, "split")
    size = max(1, round(fraction * count))
    if not 0 < fraction < 1 or size == count:
        raise ValueError(f"split: a fraction of {fraction} of {count} examples leaves nothing")
    held_out = np.isin(np.arange(count), np.random.default_rng(seed).permutation(count)[:size])

    def part(wanted):
        chosen = examples.enumerate().filter(lambda index, _: tf.constant(held_out == wanted)[index])
        known = tf.data.experimental.assert_cardinality(size if wanted else count - size)
        return chosen.map(lambda _, element: element).apply(known)

    return part(False), part(True)


def tiles(examples: tf.data.Dataset, size: int, step: int | None = None) -> tf.data.Dataset:
    """Cuts large photos into tiles at their own resolution, for objects that would vanish in a resized photo.

    Tiles begin every `step` pixels from the upper left corner, until they reach the end of a photo. What the last ones
    lack is mirrored, and its labels are ignored (the overlap-tile strategy: Ronneberger et al., U-Net, 2015, figure 2).

    Args:
      examples: pairs as for `from_datasets`. Split them before: tiles of one photo are alike.
      size: side of a tile in pixels, the `image_size` of `from_datasets`.
      step: at most `size`, the default: tiles side by side. Half of it, for training, shows each object whole.
    Returns:
      Pairs of an image uint8 [size, size, 3] and labels [size, size] or [size, size, 1] of the same type as before.
    Raises:
      ValueError: for another step.
    """
    step = size if step is None else step
    if not 0 < step <= size:
        raise ValueError(f"tiles: a step of {step} is not in 1 to {size}, the size")

    def side(number, length):  # the part of a photo that a tile needs, its pixels in that, and which are no reflection
        places = number * step + tf.range(size, dtype=tf.int64)
        first = tf.maximum(tf.minimum(places[0], length - size), 0)
        reflected = tf.minimum(places % (2 * length), (-1 - places) % (2 * length))
        return slice(first, first + size), reflected - first, places < length

    def cut(image, label):
        height, width = tf.unstack(tf.shape(image, tf.int64)[:2])
        rows, columns = tile_counts(height, size, step), tile_counts(width, size, step)
        ignored = tf.constant(255 if label.dtype.max >= 255 else -1, label.dtype)
        shape = (size, size, 1)[: label.shape.rank]

        def tile(number):
            part_y, y, is_photo_y = side(number // columns, height)
            part_x, x, is_photo_x = side(number % columns, width)
            parts = (pixels[part_y, part_x] for pixels in (image, label))
            image_tile, label_tile = (tf.gather(tf.gather(part, y), x, axis=1) for part in parts)
            is_photo = is_photo_y[:, tf.newaxis] & is_photo_x
            return image_tile, tf.where(tf.reshape(is_photo, shape), label_tile, ignored)

        return tf.data.Dataset.range(rows * columns).map(tile)

    return examples.flat_map(cut)


def tile_counts(sides, size: int, step: int) -> tf.Tensor:
    """How many tiles of `tiles` cover sides, integers of any shape, in pixels."""
    return tf.maximum(sides - size + step - 1, 0) // step + 1


def resized(examples: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """Pairs of an image uint8 [size, size, 3] and labels uint8 [size, size], from pairs as for `from_datasets`."""

    def prepare(image, label):
        label = tf.cast(tf.minimum(tf.cast(label, tf.int32), 255), tf.uint8)
        return resize(image, label if label.shape.rank == 3 else label[..., tf.newaxis], size)

    return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)


def resize(image: tf.Tensor, label: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes an image uint8 [H, W, 3] and its labels uint8 [H, W, 1] to uint8 [size, size, 3] and [size, size].

    The image is bilinear with antialiasing; each label is that of the nearest pixel, so it stays a class id.
    """
    image = tf.image.resize(image, (size, size), antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    label = tf.image.resize(label, (size, size), method="nearest")
    return tf.ensure_shape(image, (size, size, 3)), tf.ensure_shape(label, (size, size, 1))[..., 0]


def augment(images: tf.Tensor, labels: tf.Tensor, seed: tuple) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors, crops, rotates and recolours each image of a batch independently, and its labels with it.

    Of the images, half are mirrored, half zoomed in by up to a factor of 2, half stretched by up to a third, and half
    rotated by up to 20 degrees; reflections fill what a photo leaves empty. Contrast, saturation and brightness vary.

    Args:
      images, labels: uint8 [B, H, W, 3] in 0..255 and uint8 [B, H, W], of a static shape.
      seed: two integers.
    Returns:
      Images and labels of the same shapes and types.
    """
    count, height, width = labels.shape
    uniform = tf.random.stateless_uniform((9, count), seed=tf.cast(tf.stack(seed), tf.int64))
    mirrored, zoom, aspect, angle, left, top = tf.unstack(uniform[:6])

    def centered(values, most):  # from 0..1 to -most..most; 0.25..0.75 becomes 0, so half of the images do not change
        return most * tf.sign(values - 0.5) * tf.maximum(0.0, 4 * tf.abs(values - 0.5) - 1)

    aspect = tf.exp(centered(aspect, 0.3))
    angle = centered(angle, math.radians(20))
    side = tf.minimum(1.0, 0.5 + zoom)  # of what is shown, as a fraction of the photo's
    side_x = side * tf.minimum(1.0, aspect)
    side_y = side * tf.minimum(1.0, 1 / aspect)
    center = tf.constant([[(width - 1) / 2], [(height - 1) / 2]])
    shift = tf.stack([(left - 0.5) * (1 - side_x) * width, (top - 0.5) * (1 - side_y) * height], axis=1)[..., None]
    side_x = tf.where(mirrored < 0.5, -side_x, side_x)
    sin = tf.sin(angle)
    cos = tf.cos(angle)
    matrix = tf.transpose(tf.stack([[side_x * cos, -side_y * sin], [side_x * sin, side_y * cos]]), (2, 0, 1))
    rows = tf.concat([matrix, center + shift - matrix @ center], axis=2)  # from the augmented image to the photo
    transforms = tf.pad(tf.reshape(rows, (-1, 6)), ((0, 0), (0, 2)))

    def warp(pixels, interpolation):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels,
            transforms=transforms,
            output_shape=(height, width),
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="REFLECT",
        )

    images = warp(tf.cast(images, tf.float32), "BILINEAR")
    labels = warp(labels[..., tf.newaxis], "NEAREST")[..., 0]
    contrast, saturation, brightness = tf.unstack(2 * uniform[6:, :, None, None, None] - 1)
    gray = tf.reduce_mean(images, axis=-1, keepdims=True)
    mean = tf.reduce_mean(gray, axis=(1, 2), keepdims=True)
    colored = gray + (1 + 0.5 * saturation) * (images - gray)
    images = (1 + 0.4 * contrast) * (colored - mean) + mean + 30 * brightness
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8), labels


def read(pairs: tf.data.Dataset, text: str = "reading") -> tuple[Array, Array]:
    """Reads pairs of known number from `resized` into memory, in a quarter less of it than `Dataset.cache` needs.

    What takes more than half of the free memory is kept in a file, in the folder TMPDIR or else /var/tmp.

    Returns:
      The images uint8 [N, size, size, 3], and their labels uint8 [N, size, size].
    Raises:
      MemoryError: if there is no room for that file.
    """
    count = len(pairs)
    shapes = [(count, *spec.shape) for spec in pairs.element_spec]
    size = sum(map(math.prod, shapes))
    if size > free_memory() / 2:
        arrays = _in_files(shapes, size)
    else:
        with tf.device("CPU"):  # where the pipeline runs, also beside a GPU
            arrays = tuple(tf.Variable(tf.zeros(shape, tf.uint8)) for shape in shapes)
    done = 0
    with progress_bar(count, text) as bar:
        for batch in pairs.batch(64):
            places = tf.range(done, done + len(batch[0]))
            for array, part in zip(arrays, batch, strict=True):
                array.scatter_update(tf.IndexedSlices(part, places))  # in place; assigning a slice would copy it all
            done += len(places)
            bar.update(len(places))
    return arrays


def free_memory() -> float:
    """Bytes of memory that are free in the machine, or in the container if it has a limit; infinite if unknown."""

    def number(path, name=""):
        return int(re.search(rf"{name}\W*(\d+)", pathlib.Path(path).read_text())[1])

    free = math.inf
    with contextlib.suppress(OSError, TypeError):  # no such file, or "max"
        free = 1024 * number("/proc/meminfo", "MemAvailable")
        limit = number("/sys/fs/cgroup/memory.max")
        free = min(free, limit - number("/sys/fs/cgroup/memory.stat", "anon"))
    return free


def _in_files(shapes: list[tuple[int, ...]], size: int) -> tuple[FileArray, ...]:
    folder = os.environ.get("TMPDIR", "/var/tmp")  # /tmp is often a part of the memory
    if not os.access(folder, os.W_OK):
        folder = tempfile.gettempdir()
    taken = f"the photos take {size / 1e9:.1f} GB, more than half of the free memory"
    free = shutil.disk_usage(folder).free
    try:
        if size > free:
            raise OSError
        arrays = tuple(FileArray(shape, folder) for shape in shapes)
    except OSError as error:
        advice = "set TMPDIR to a folder with more room, or make the images smaller"
        raise MemoryError(f"{taken}, and {folder} has {free / 1e9:.1f} GB free; {advice}") from error
    print(f"{taken}: they are kept in a file in {folder}", flush=True)
    return arrays


def progress_bar(count: int, text: str) -> tqdm:
    """A progress bar of images, on a terminal only."""
    return tqdm(total=count, desc=text, unit="image", disable=None, leave=False, file=sys.stdout)


def _is_pair(spec) -> bool:
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(isinstance(part, tf.TensorSpec) for part in spec):
        return False
    image, label = spec
    is_image = image.dtype == tf.uint8 and image.shape.is_compatible_with((None, None, 3))
    is_label = label.shape.rank == 2 or (label.shape.rank == 3 and label.shape[-1] in (None, 1))
    return is_image and image.shape.rank == 3 and label.dtype.is_integer and is_label


def _check_labels(name: str, num_classes: int) -> Callable:
    """A function for `map` that raises InvalidArgumentError for labels that are no class ids, nor 255 or -1."""

    text = f"{name}: labels outside of the {num_classes} classes, and not 255 or -1, which are ignored:"

    def check(image, label):
        values = label if label.dtype == tf.uint8 else tf.cast(label, tf.int32)
        is_strange = (values >= num_classes) & (values != 255)
        if values.dtype.min < 0:
            is_strange |= values < -1
        strange = tf.sort(tf.unique(tf.boolean_mask(values, is_strange))[0])
        with tf.control_dependencies([tf.debugging.Assert(tf.size(strange) == 0, [text, strange], summarize=256)]):
            return image, tf.identity(label)

    return check


def _count(examples: tf.data.Dataset, name: str) -> int:
    count = int(examples.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name}: the data set repeats forever; leave repeat() out")
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = sum(1 for _ in examples)
    if not count:
        raise ValueError(f"{name}: the data set is empty")
    return count
