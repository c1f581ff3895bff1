"""A small Mask R-CNN of tf-models-official: its configuration, ImageNet weights, training batches and training step.

That library is built on tf_keras (Keras 2). Only the weights of the encoder come from Keras 3.
"""

import functools
import warnings
from collections.abc import Callable

from app.detect import scenes

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from official.vision.configs import backbones, common, decoders, maskrcnn
from official.vision.ops import anchor, preprocess_ops
from official.vision.tasks import maskrcnn as tasks

warnings.filterwarnings("ignore", message="Input dict contained keys")  # the backbone has one level more
warnings.filterwarnings(
    "ignore", message="The initializer VarianceScaling is unseeded"
)  # tf_keras, of separable layers

LEVELS = 3, 6  # of the feature pyramid: strides 8 to 64
ASPECTS = [0.5, 1.0, 2.0]  # width over height of the anchors
ANCHOR_SIZE = 3 / 320  # of the image's side, times the stride: 24, 48, 96 and 192 pixels at 320 px
HUBER_DELTA = 0.2  # of box errors; 1 is a tenth of the box's side
FROZEN = 9  # first layers of the encoder that keep ImageNet's weights: strides 2 and 4 (a sixth of the time)
SAMPLED_ANCHORS = 256  # per photo, for the losses
SAMPLED_REGIONS = 64
SAMPLED_MASKS = 16


def task(
    image_size: int, num_classes: int, *, filters: int, proposals: int, detections: int, weight_decay: float
) -> tasks.MaskRCNNTask:
    """The model and its losses.

    Args:
      image_size: side in pixels, a multiple of 64.
      num_classes: with class 0, the background.
      filters: channels of the feature pyramid and the heads.
      proposals: regions that the heads look at, 32 or more; twice as many in training.
      detections: at most this many in a photo.
    """
    config = maskrcnn.MaskRCNNTask(
        model=maskrcnn.MaskRCNN(
            num_classes=num_classes,
            input_size=[image_size, image_size, 3],
            min_level=LEVELS[0],
            max_level=LEVELS[1],
            anchor=maskrcnn.Anchor(num_scales=1, aspect_ratios=ASPECTS, anchor_size=ANCHOR_SIZE * image_size),
            backbone=backbones.Backbone(type="mobilenet", mobilenet=backbones.MobileNet(model_id="MobileNetV2")),
            decoder=decoders.Decoder(type="fpn", fpn=decoders.FPN(num_filters=filters, use_separable_conv=True)),
            rpn_head=maskrcnn.RPNHead(num_filters=filters, use_separable_conv=True),
            detection_head=maskrcnn.DetectionHead(
                num_filters=filters, use_separable_conv=True, fc_dims=256, class_agnostic_bbox_pred=True
            ),
            mask_head=maskrcnn.MaskHead(num_filters=filters, use_separable_conv=True, class_agnostic=True),
            roi_generator=maskrcnn.ROIGenerator(
                pre_nms_top_k=2 * proposals,
                num_proposals=2 * proposals,
                test_pre_nms_top_k=proposals,
                test_num_proposals=proposals,
                use_batched_nms=True,
            ),
            roi_sampler=maskrcnn.ROISampler(num_sampled_rois=SAMPLED_REGIONS),
            mask_sampler=maskrcnn.MaskSampler(num_sampled_masks=SAMPLED_MASKS),
            detection_generator=maskrcnn.DetectionGenerator(nms_version="batched", max_num_detections=detections),
            # ImageNet's weights need this epsilon; the momentum suits short trainings.
            norm_activation=common.NormActivation(
                activation="relu6", use_sync_bn=False, norm_momentum=0.97, norm_epsilon=1e-3
            ),
        ),
        # The library divides this loss by the regions sampled for the classes, not by those of the proposals.
        # From a fiftieth of a box's side on, errors of boxes count by their size (Huber), not by its square.
        losses=maskrcnn.Losses(
            l2_weight_decay=weight_decay,
            rpn_score_weight=SAMPLED_REGIONS / SAMPLED_ANCHORS,
            frcnn_huber_loss_delta=HUBER_DELTA,
            frcnn_box_weight=1 / HUBER_DELTA,
        ),
    )
    return tasks.MaskRCNNTask(config)


def load_encoder_weights(model: tf_keras.Model, weights: str | None) -> None:
    """Copies the weights of keras.applications.MobileNetV2 into the backbone; they are the same layers in order."""
    model.backbone.layers[-2].trainable = False  # a last convolution for classifiers, which nothing uses
    if weights is None:
        return
    for layer in model.backbone.layers[:FROZEN]:
        layer.trainable = False
    encoder = keras.applications.MobileNetV2(include_top=False, weights=weights)
    for kind in ("kernel", "gamma", "beta", "moving_mean", "moving_variance"):
        ours = [variable for variable in model.backbone.variables if variable.name.split(":")[0].endswith(kind)]
        theirs = [variable for variable in encoder.variables if variable.name.endswith(kind)]
        for variable, value in zip(ours, theirs, strict=True):
            variable.assign(np.array(value))


def normalize(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels 0..255 to the range that MobileNetV2's weights expect, -1..1."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1


def batches(
    draw: Callable[[int], scenes.Scene], first: int, image_size: int, batch_size: int, instances: int
) -> tf.data.Dataset:
    """Training batches, without end: images, uint8 [B, H, W, 3], and the labels that the losses take.

    Args:
      draw: the scene with this number, image_size pixels wide and high.
      first: the number of the first scene.
      instances: at most this many in a scene.
    """
    options = {"num_scales": 1, "aspect_ratios": ASPECTS, "anchor_size": ANCHOR_SIZE * image_size}
    anchors = anchor.build_anchor_generator(min_level=LEVELS[0], max_level=LEVELS[1], **options)((image_size,) * 2)
    labeler = anchor.RpnAnchorLabeler(rpn_batch_size_per_im=SAMPLED_ANCHORS)

    def draw_targets(number):
        scene = draw(int(number))
        boxes, classes, masks = scenes.targets(scene)
        return scene.image, boxes[:instances], classes[:instances], masks[:instances]

    def load(number):
        dtypes = (tf.uint8, tf.float32, tf.int32, tf.float32)
        image, boxes, classes, masks = tf.numpy_function(draw_targets, [number], dtypes)
        image.set_shape((image_size, image_size, 3))
        boxes.set_shape((None, 4))
        classes.set_shape((None,))
        masks.set_shape((None, scenes.MASK_SIDE, scenes.MASK_SIDE))
        scores, offsets = labeler.label_anchors(anchors, boxes, tf.cast(classes[:, tf.newaxis], tf.float32))
        pad = functools.partial(preprocess_ops.clip_or_pad_to_fixed_size, size=instances, constant_values=-1)
        labels = {"rpn_score_targets": scores, "rpn_box_targets": offsets}
        return image, {**labels, "gt_boxes": pad(boxes), "gt_classes": pad(classes), "gt_masks": pad(masks)}

    numbers = tf.data.Dataset.counter(start=first)
    return numbers.map(load, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(2)


def make_train_step(
    task: tasks.MaskRCNNTask, model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer
) -> Callable[[tf.Tensor, dict], dict[str, tf.Tensor]]:
    """A function that takes a step on a batch and returns the losses."""

    @tf.function
    def step(images, labels):
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        with tf.GradientTape() as tape:
            outputs = model(
                normalize(images),
                image_shape=tf.repeat(size[tf.newaxis], len(images), axis=0),
                gt_boxes=labels["gt_boxes"],
                gt_classes=labels["gt_classes"],
                gt_masks=labels["gt_masks"],
                training=True,
            )
            losses = task.build_losses(outputs, labels, model.losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(losses["total_loss"], variables), variables, strict=True))
        return losses

    return step
