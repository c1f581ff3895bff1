"""The recipes' tasks done the plain way, as in tutorials: the baseline of benchmark.py, which describes it."""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

BATCH_SIZE = 16


def pipeline(examples: tf.data.Dataset, decode, size: int) -> tf.data.Dataset:
    """Batches of images, float32 in 0..1, and labels, float32, from the elements of a data set."""

    def load(*element):
        image, label = decode(*element)
        image = tf.image.resize(image, (size, size))
        label = tf.image.resize(label, (size, size))  # bilinear, which invents in-between classes
        if np.random.uniform() > 0.5:  # drawn once, when TensorFlow traces this function
            image, label = tf.image.flip_left_right(image), tf.image.flip_left_right(label)
        return tf.cast(image, tf.float32) / 255, tf.cast(label, tf.float32)

    return examples.map(load).cache().shuffle(1000).batch(BATCH_SIZE).repeat().prefetch(tf.data.AUTOTUNE)


def compile_model(model: keras.Model) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.RMSprop(), loss, metrics=["accuracy"])


def detect_and_save(prediction: dict[str, np.ndarray], photo_path, picture_path) -> None:
    """Reads a photo pixel by pixel, pastes all masks at full photo size, draws them and saves a figure."""
    import matplotlib.pyplot as plt
    from official.vision.utils.object_detection import visualization_utils

    with Image.open(photo_path) as image:
        width, height = image.size
        photo = np.array(image.getdata()).reshape((height, width, 3)).astype(np.uint8)
    boxes = prediction["detection_boxes"][0]
    corner = boxes[:, :2]
    extent = boxes[:, 2:] - corner
    whole = np.hstack([-corner / extent, (1 - corner) / extent])  # the photo, in the coordinates of each box
    masks = tf.image.crop_and_resize(
        prediction["detection_masks"][0][..., np.newaxis], whole, np.arange(len(boxes)), (height, width)
    )
    visualization_utils.visualize_boxes_and_labels_on_image_array(
        photo,
        boxes,
        prediction["detection_classes"][0].astype(int),
        prediction["detection_scores"][0],
        category_index={},
        instance_masks=tf.cast(masks[..., 0] > 0.5, tf.uint8).numpy(),
        use_normalized_coordinates=True,
        max_boxes_to_draw=len(boxes),
    )
    figure = plt.figure(figsize=(24, 32))
    plt.imshow(photo)
    plt.savefig(picture_path)
    plt.close(figure)


def segment_and_save(model: keras.Model, class_names, photo_path, folder) -> None:
    """Saves mask, overlay and cutout of a photo: enlarges the prediction as float32, writes with Pillow."""
    photo = np.array(Image.open(photo_path).convert("RGB"))
    small = tf.image.resize(photo[np.newaxis], model.input_shape[1:3])
    probabilities = tf.image.resize(tf.nn.softmax(model.predict(small, verbose=0)), photo.shape[:2])[0].numpy()
    label = probabilities.argmax(-1)
    colors = np.array([(230, 140, 20), (36, 62, 110), (250, 240, 170)], np.uint8)
    overlay = (photo / 2 + colors[label] / 2).astype(np.uint8)
    opacity = 255 * (1 - probabilities[..., class_names.index("background")])
    Image.fromarray(label.astype(np.uint8)).save(folder / "plain_mask.png")
    Image.fromarray(overlay).save(folder / "plain_overlay.png")
    Image.fromarray(np.dstack([photo, opacity.astype(np.uint8)])).save(folder / "plain_cutout.png")


def main() -> None:
    """Trains one step on drawn pets, to time program start-up."""
    from app.datasets import synthetic

    import tensorflow_datasets  # noqa: F401  what a tutorial imports at its top
    import unet_scratch

    images, labels = map(np.stack, zip(*(synthetic.draw(i, image_size=128) for i in range(BATCH_SIZE)), strict=True))
    examples = tf.data.Dataset.from_tensor_slices((images, labels[..., np.newaxis]))
    model = unet_scratch.build_model(128, 3)
    compile_model(model)
    model.fit(pipeline(examples, lambda image, label: (image, label), 128), steps_per_epoch=1)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "recipes"))
    main()
