"""U-Net on MobileNetV2: every pixel of a photo becomes pet, background or border.

The encoder of this U-Net is MobileNetV2 with what it learnt on ImageNet, so that only the decoder starts from
nothing. The decoder is trained first while the encoder is frozen, then both together at a smaller learning rate.
The test scores, curves, mosaics and the model are saved.

Needs:   a GPU with 4 GB, or a CPU: at 128 px, two cores take 5 minutes an epoch, and 2 where they compute in
         bfloat16. 800 MB of photos and 9 MB of weights are downloaded the first time.
Run:     python recipes/unet_mobilenetv2.py
             trains on Oxford-IIIT Pet at 256 px
         python recipes/unet_mobilenetv2.py --data synthetic --backbone-weights none --image-size 64
             is a try without any download
         python recipes/unet_mobilenetv2.py --data DIR
             trains on DIR/images and DIR/masks
         python recipes/unet_mobilenetv2.py --predict cat.jpg
             segments own photos, also with the weights that come with the project
Expect:  test mean IoU 0.786 at 128 px.
Papers:  Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015;
         Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from common import backbones, data, flags, folders, losses, optimizers, predict, runs, scores

import keras
from keras import layers

EPOCHS = 1  # with the encoder frozen
FINE_TUNE_EPOCHS = 29  # with the encoder trained too
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
FINE_TUNE_FACTOR = 0.3  # of the learning rate: pretrained features are to be adapted, not unlearnt
BN_MOMENTUM = 0.95  # Keras' 0.99, and MobileNetV2's 0.999, lag hundreds of steps behind
SKIPS = ("block_13_expand_relu", "block_6_expand_relu", "block_3_expand_relu", "block_1_expand_relu")  # 1/16 .. 1/2
BOTTOM = "block_16_project"  # 1/32 of the image's side
DECODER_FILTERS = (512, 256, 128, 64)


def build_model(image_size: int, num_classes: int) -> keras.Model:
    """Builds the U-Net around a MobileNetV2 with random weights.

    Args:
      image_size: side in pixels, a multiple of 32.
      num_classes: channels of the output. With 3 the model has 10.1 million parameters.
    Returns:
      A model from raw pixels [B, image_size, image_size, 3], 0..255, to logits float32
      [B, image_size, image_size, num_classes].
    Raises:
      ValueError: for an image size that is not a multiple of 32.
    """
    if image_size <= 0 or image_size % 32:
        raise ValueError(f"image_size {image_size} is not a multiple of 32")
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    # MobileNetV2's ImageNet weights expect -1..1.
    pixels = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    encoder = keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=pixels)
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM

    x = encoder.get_layer(BOTTOM).output
    for filters, skip in zip(DECODER_FILTERS, SKIPS, strict=True):
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=BN_MOMENTUM)(x)
        x = layers.ReLU()(x)
        x = layers.Concatenate()([x, encoder.get_layer(skip).output])
    # The loss takes logits, in float32 also where the rest is computed in half precision: no softmax here.
    logits = layers.Conv2DTranspose(num_classes, 4, strides=2, padding="same", dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="unet_mobilenetv2")


def set_encoder_trainable(model: keras.Model, trainable: bool) -> None:
    """Freezes the encoder, or not, from the next `compile` on. Frozen batch normalisation is in inference mode too."""
    names = [layer.name for layer in model.layers]
    for layer in model.layers[: names.index(BOTTOM) + 1]:
        layer.trainable = trainable


def main() -> int | None:
    args = flags.training(
        "unet_mobilenetv2",
        __doc__,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        pretrained=True,
        fine_tune_epochs=FINE_TUNE_EPOCHS,
    )
    if args.check_data:
        return folders.report(args.data)
    if args.predict:
        return predict.run(args, build_model)
    device = runs.prepare(args)
    encoder = backbones.pretrained(backbones.MOBILENETV2, args.backbone_weights)
    dataset = data.load(
        args.data, args.image_size, args.batch_size, seed=args.seed, limit=args.limit, data_dir=args.data_dir
    )
    runs.announce(args, dataset, device)

    num_classes = len(dataset.class_names)
    with device.team.strategy.scope():
        model = device.adapt(build_model(args.image_size, num_classes))
        if encoder:
            backbones.copy_weights(encoder, model)
    # One stage after another: (epochs, learning rate, whether the encoder is trained).
    stages = [(args.epochs, args.learning_rate, False)]
    stages += [(args.fine_tune_epochs, args.learning_rate * FINE_TUNE_FACTOR, True)]
    if not encoder:  # a random one is trained from the first epoch
        stages = [(args.epochs + args.fine_tune_epochs, args.learning_rate, True)]

    recorder = runs.Recorder(args, dataset, device)
    end = 0
    for epochs, peak, with_encoder in stages:
        first, end = end, end + epochs
        if recorder.epoch >= end:  # finished before the run was interrupted
            continue
        with device.team.strategy.scope():
            set_encoder_trainable(model, with_encoder)
            model.compile(
                optimizer=optimizers.Adam(optimizers.warm_up_and_cosine(peak, epochs * dataset.steps_per_epoch)),
                loss=losses.CrossEntropyAndDice(),
                metrics=[scores.PixelAccuracy(num_classes), scores.MeanIoU(num_classes)],
                jit_compile=device.jit_compile,
            )
            recorder.restore(model, first)
        model.fit(
            recorder.train_data(),
            initial_epoch=recorder.epoch,
            epochs=end,
            steps_per_epoch=dataset.steps_per_epoch,
            validation_data=device.team.all_of(dataset.validation),
            callbacks=[recorder],
            shuffle=False,  # the pipeline has done it
            verbose=device.verbose,
        )
    runs.finish(args, dataset, recorder)


if __name__ == "__main__":
    runs.start(main)
