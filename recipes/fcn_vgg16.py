"""FCN-8s on VGG16: labels every pixel of a photo as pet, background or border.

Turns VGG16, an ImageNet classifier, into a segmentation network and trains all but its first two blocks on
Oxford-IIIT Pet. Three depths of the encoder each vote with one map per class; coarse votes are enlarged and added to
finer ones, and the sum is enlarged to full size. Saves test scores, curves, mosaics and the model.

Needs:   a GPU with 6 GB, or a CPU: at 128 px an epoch takes 1.5 minutes on two cores in bfloat16, 5 in float32.
         The first run downloads 800 MB of photos and 59 MB of weights.
Run:     python recipes/fcn_vgg16.py
             train on Oxford-IIIT Pet at 256 px
         python recipes/fcn_vgg16.py --data synthetic --backbone-weights none --image-size 96 --epochs 2
             try it without a download
         python recipes/fcn_vgg16.py --data DIR
             train on your own photos and masks, or COCO annotations
         python recipes/fcn_vgg16.py --predict cat.jpg
             segment your own photos, once trained
Expect:  test mean IoU 0.773 at 128 px.
Papers:  Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015;
         Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015;
         Girshick: Fast R-CNN, ICCV 2015, section 4.5 (which layers of VGG16 are worth fine-tuning).
"""

from app import cli, runs
from common import losses, scores

import keras
import numpy as np
from keras import layers

EPOCHS = 40
BATCH_SIZE = 16
LEARNING_RATE = 2e-4  # small: pretrained features should be adapted, not unlearned
MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet: VGG16's weights expect BGR with it subtracted
FROZEN = ("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2")  # edges and colours, good as they are


def build_model(image_size: int, num_classes: int, encoder_weights=None) -> keras.Model:
    """Builds FCN-8s (Long et al. 2015, section 4.2) around VGG16.

    Args:
      image_size: side in pixels, a multiple of 32.
      num_classes: channels of the output. With 3 the model has 14.8 million parameters.
      encoder_weights: the `weights` of keras.applications.VGG16: None (random), "imagenet", or a file.
    Returns:
      A model from raw pixels [B, image_size, image_size, 3], 0..255, to float32 logits
      [B, image_size, image_size, num_classes].
    Raises:
      ValueError: for an image size that is not a multiple of 32.
    """
    if image_size <= 0 or image_size % 32:
        raise ValueError(f"image_size {image_size} is not a multiple of 32")
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    # As keras.applications.vgg16.preprocess_input, whose constant the export to ONNX turns into a second input.
    pixels = layers.Rescaling(1.0, offset=[-mean for mean in MEAN_BGR], dtype="float32")(inputs[..., ::-1])
    encoder = keras.applications.VGG16(include_top=False, weights=encoder_weights, input_tensor=pixels)

    # Each depth votes with one map per class. The kernels start at zero, as in the paper, because VGG16's activations
    # reach hundreds. No ReLU follows, because a vote may also count against a class.
    def vote(block, kernel_size):
        features = encoder.get_layer(f"block{block}_pool").output
        name = f"vote_pool{block}"
        return layers.Conv2D(num_classes, kernel_size, padding="same", kernel_initializer="zeros", name=name)(features)

    # Kernels of twice the stride overlap, which avoids checkerboards. The sum of the votes stays in float32.
    def enlarge(maps, factor, name):
        layer = layers.Conv2DTranspose(
            num_classes, 2 * factor, strides=factor, padding="same", use_bias=False, dtype="float32", name=name
        )
        enlarged = layer(maps)
        layer.set_weights([bilinear_kernel(factor, num_classes)])
        return enlarged

    votes = layers.Add(dtype="float32")(
        [
            enlarge(vote(5, kernel_size=7), 4, "enlarge_pool5"),
            enlarge(vote(4, kernel_size=1), 2, "enlarge_pool4"),
            vote(3, kernel_size=1),
        ]
    )
    return keras.Model(inputs, enlarge(votes, 8, "logits"), name="fcn_vgg16")


def freeze_first_blocks(model: keras.Model) -> None:
    """Keeps the layers closest to the pixels, a quarter of a step's work, as they were trained on ImageNet."""
    for name in FROZEN:
        model.get_layer(name).trainable = False


def bilinear_kernel(factor: int, num_classes: int) -> np.ndarray:
    """The kernel of a transposed convolution that enlarges each class bilinearly (Long et al. 2015, section 3.3).

    Returns:
      float32 [2 * factor, 2 * factor, num_classes, num_classes], for a stride of `factor`.
    """
    line = 1 - np.abs(np.arange(2 * factor) + 0.5 - factor) / factor
    return np.einsum("y,x,io->yxio", line, line, np.eye(num_classes)).astype(np.float32)


@cli.program()
def main() -> None:
    # With --predict or --check-data the program ends here.
    run = runs.start("fcn_vgg16", __doc__, build_model, EPOCHS, BATCH_SIZE, LEARNING_RATE, keras.applications.VGG16)
    data = run.load_data()  # endless training batches; validation and test are one pass each
    num_classes = len(data.class_names)
    model = run.prepare(build_model(run.image_size, num_classes, run.encoder_weights))  # --weights
    if run.has_trained_encoder:
        freeze_first_blocks(model)
    schedule = losses.warm_up_and_cosine(run.learning_rate, run.epochs * data.steps_per_epoch)
    loss = losses.CrossEntropyAndDice(run.class_weights)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=scores.metrics(num_classes))
    model.fit(
        data.train,
        steps_per_epoch=data.steps_per_epoch,
        initial_epoch=run.finished_epochs,
        epochs=run.epochs,
        validation_data=data.validation,
        callbacks=run.callbacks,  # each epoch is kept, so that --resume continues
        shuffle=False,  # the pipeline shuffles
    )
    run.report(data)  # test scores of the best epoch, curves, mosaics


if __name__ == "__main__":
    main()
