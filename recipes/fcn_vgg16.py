"""FCN-8s on VGG16: every pixel of a photo becomes pet, background or border.

Turns VGG16, a classifier trained on ImageNet, into a segmentation network and trains it, but for its first two
blocks, on Oxford-IIIT Pet. Three depths of the encoder each vote with one map per class; the coarse votes are
enlarged, added to the finer ones, and enlarged to full size. The test scores, curves, mosaics and the model are
saved.

Needs:   a GPU with 6 GB, or a CPU and patience: at 128 px, two cores take 13 minutes an epoch, and 4 where they
         compute in bfloat16. 800 MB of photos and 59 MB of weights are downloaded the first time.
Run:     python recipes/fcn_vgg16.py
             trains on Oxford-IIIT Pet at 256 px
         python recipes/fcn_vgg16.py --data synthetic --backbone-weights none --image-size 96 --epochs 2
             is a try without any download
         python recipes/fcn_vgg16.py --data DIR
             trains on DIR/images and DIR/masks
         python recipes/fcn_vgg16.py --predict cat.jpg
             segments own photos, once it is trained
Expect:  test mean IoU 0.752 after 8 epochs at 128 px, with --batch-size 8.
Papers:  Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015;
         Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015;
         Girshick: Fast R-CNN, ICCV 2015, section 4.5, of which layers of VGG16 are worth fine-tuning.
"""

from common import backbones, data, flags, folders, losses, optimizers, predict, runs, scores

import keras
import numpy as np
from keras import layers

EPOCHS = 20
BATCH_SIZE = 16
LEARNING_RATE = 1e-4  # small: pretrained features are to be adapted, not unlearnt
FROZEN = ("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2")  # edges and colours, good as they are


def build_model(image_size: int, num_classes: int) -> keras.Model:
    """Builds FCN-8s (Long et al. 2015, section 4.2) around a VGG16 with random weights.

    Args:
      image_size: side in pixels, a multiple of 32.
      num_classes: channels of the output. With 3 the model has 14.8 million parameters.
    Returns:
      A model from raw pixels [B, image_size, image_size, 3], 0..255, to logits float32
      [B, image_size, image_size, num_classes].
    Raises:
      ValueError: for an image size that is not a multiple of 32.
    """
    if image_size <= 0 or image_size % 32:
        raise ValueError(f"image_size {image_size} is not a multiple of 32")
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    # VGG16's ImageNet weights expect BGR with the mean colour of ImageNet subtracted.
    pixels = keras.applications.vgg16.preprocess_input(inputs)
    encoder = keras.applications.VGG16(include_top=False, weights=None, input_tensor=pixels)

    # Each depth votes with one map per class. The votes start at zero, as in the paper, for VGG16's activations
    # reach hundreds; and no ReLU follows, for a vote may also speak against a class.
    def vote(block, kernel_size):
        features = encoder.get_layer(f"block{block}_pool").output
        name = f"vote_pool{block}"
        return layers.Conv2D(num_classes, kernel_size, padding="same", kernel_initializer="zeros", name=name)(features)

    # Kernels of twice the stride overlap, so that no checkerboard appears. The sum of votes is kept in float32.
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
    """Leaves the layers nearest to the pixels, which are a quarter of a step's work, as ImageNet taught them."""
    for name in FROZEN:
        model.get_layer(name).trainable = False


def bilinear_kernel(factor: int, num_classes: int) -> np.ndarray:
    """The transposed convolution that is bilinear enlargement, each class by itself (Long et al. 2015, section 3.3).

    Returns:
      float32 [2 * factor, 2 * factor, num_classes, num_classes], for a stride of `factor`.
    """
    line = 1 - np.abs(np.arange(2 * factor) + 0.5 - factor) / factor
    return np.einsum("y,x,io->yxio", line, line, np.eye(num_classes)).astype(np.float32)


def main() -> int | None:
    args = flags.training(
        "fcn_vgg16", __doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, pretrained=True
    )
    if args.check_data:
        return folders.report(args.data)
    if args.predict:
        return predict.run(args, build_model)
    device = runs.prepare(args)
    encoder = backbones.pretrained(backbones.VGG16, args.backbone_weights)
    dataset = data.load(
        args.data, args.image_size, args.batch_size, seed=args.seed, limit=args.limit, data_dir=args.data_dir
    )
    runs.announce(args, dataset, device)

    num_classes = len(dataset.class_names)
    with device.team.strategy.scope():
        model = device.adapt(build_model(args.image_size, num_classes))
        if encoder:
            backbones.copy_weights(encoder, model)
            freeze_first_blocks(model)
        learning_rate = optimizers.warm_up_and_cosine(args.learning_rate, args.epochs * dataset.steps_per_epoch)
        model.compile(
            optimizer=optimizers.Adam(learning_rate),
            loss=losses.CrossEntropyAndDice(),
            metrics=[scores.PixelAccuracy(num_classes), scores.MeanIoU(num_classes)],
            jit_compile=device.jit_compile,
        )
        recorder = runs.Recorder(args, dataset, device)
        recorder.restore(model)
    model.fit(
        recorder.train_data(),
        initial_epoch=recorder.epoch,
        epochs=args.epochs,
        steps_per_epoch=dataset.steps_per_epoch,
        validation_data=device.team.all_of(dataset.validation),
        callbacks=[recorder],
        shuffle=False,  # the pipeline has done it
        verbose=device.verbose,
    )
    runs.finish(args, dataset, recorder)


if __name__ == "__main__":
    runs.start(main)
