"""U-Net on MobileNetV2: labels every pixel of a photo as pet, background or border.

The encoder of this U-Net is a MobileNetV2 pretrained on ImageNet, so only the decoder starts from scratch. The decoder
is trained first, with the encoder frozen, then both together at a lower learning rate. Saves test scores, curves,
mosaics and the model.

Needs:   a GPU with 4 GB, or a CPU: at 128 px an epoch takes 2 minutes on two cores in bfloat16, 3 in float32.
         The first run downloads 800 MB of photos and 9 MB of weights.
Run:     python recipes/unet_mobilenetv2.py
             train on Oxford-IIIT Pet at 256 px
         python recipes/unet_mobilenetv2.py --data synthetic --backbone-weights none --image-size 64 --epochs 3
             try it without a download
         python recipes/unet_mobilenetv2.py --data DIR --weights shipped
             train on your own photos and masks, or COCO annotations, from the weights in this repository
         python recipes/unet_mobilenetv2.py --predict cat.jpg
             segment your own photos, with the weights in this repository until you train your own
Expect:  test mean IoU 0.790 at 128 px.
Papers:  Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015;
         Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from app import cli, runs
from common import losses, scores

import keras
from keras import layers

ENCODER = keras.applications.MobileNetV2
EPOCHS = 45
FROZEN_EPOCHS = 1  # of these, the first ones train only the decoder
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
FINE_TUNE_FACTOR = 0.3  # of the learning rate: pretrained features should be adapted, not unlearned
BN_MOMENTUM = 0.95  # Keras' 0.99, and MobileNetV2's 0.999, lag hundreds of steps behind
SKIPS = ("block_13_expand_relu", "block_6_expand_relu", "block_3_expand_relu", "block_1_expand_relu")  # 1/16 .. 1/2
BOTTOM = "block_16_project"  # 1/32 of the image's side
DECODER_FILTERS = (512, 256, 128, 64)


def build_model(image_size: int, num_classes: int, encoder_weights=None) -> keras.Model:
    """Builds the U-Net around MobileNetV2.

    Args:
      image_size: side in pixels, a multiple of 32.
      num_classes: channels of the output. With 3 the model has 10.1 million parameters.
      encoder_weights: the `weights` of keras.applications.MobileNetV2: None (random), "imagenet", or a file.
    Returns:
      A model from raw pixels [B, image_size, image_size, 3], 0..255, to float32 logits
      [B, image_size, image_size, num_classes].
    Raises:
      ValueError: for an image size that is not a multiple of 32.
    """
    if image_size <= 0 or image_size % 32:
        raise ValueError(f"image_size {image_size} is not a multiple of 32")
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    # MobileNetV2's ImageNet weights expect -1..1.
    pixels = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    encoder = ENCODER(include_top=False, weights=encoder_weights, input_tensor=pixels)
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM

    x = encoder.get_layer(BOTTOM).output
    for filters, skip in zip(DECODER_FILTERS, SKIPS, strict=True):
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=BN_MOMENTUM)(x)
        x = layers.ReLU()(x)
        x = layers.Concatenate()([x, encoder.get_layer(skip).output])
    # No softmax: the loss takes logits, in float32 even where the rest is computed in half precision.
    logits = layers.Conv2DTranspose(num_classes, 4, strides=2, padding="same", dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="unet_mobilenetv2")


def set_encoder_trainable(model: keras.Model, trainable: bool) -> None:
    """Freezes or unfreezes the encoder, from the next `compile` on; frozen normalisation uses its moving averages."""
    names = [layer.name for layer in model.layers]
    for layer in model.layers[: names.index(BOTTOM) + 1]:
        layer.trainable = trainable


@cli.program()
def main() -> None:
    run = runs.start(
        "unet_mobilenetv2", __doc__, build_model, EPOCHS, BATCH_SIZE, LEARNING_RATE, ENCODER, FROZEN_EPOCHS
    )
    data = run.load_data()  # endless training batches; validation and test are one pass each
    num_classes = len(data.class_names)
    model = run.prepare(build_model(run.image_size, num_classes, run.encoder_weights))  # --weights
    fine_tune_factor = FINE_TUNE_FACTOR if run.has_trained_encoder else 1.0
    stages = (  # begin, end (exclusive), learning rate, whether the encoder is trained
        (0, run.frozen_epochs, run.learning_rate, False),
        (run.frozen_epochs, run.epochs, run.learning_rate * fine_tune_factor, True),
    )
    for begin, end, learning_rate, is_trainable in stages:
        if end <= run.finished_epochs:  # an empty stage, or one finished before the run was resumed
            continue
        set_encoder_trainable(model, is_trainable)
        schedule = losses.warm_up_and_cosine(learning_rate, (end - begin) * data.steps_per_epoch)
        optimizer = keras.optimizers.Adam(schedule)
        model.compile(optimizer, losses.CrossEntropyAndDice(run.class_weights), metrics=scores.metrics(num_classes))
        model.fit(
            data.train,
            steps_per_epoch=data.steps_per_epoch,
            initial_epoch=run.finished_epochs,
            epochs=end,
            validation_data=data.validation,
            callbacks=run.callbacks,  # each epoch is kept, so that --resume continues
            shuffle=False,  # the pipeline shuffles
        )
    run.report(data)  # test scores of the best epoch, curves, mosaics


if __name__ == "__main__":
    main()
