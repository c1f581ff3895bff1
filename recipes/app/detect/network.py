"""A small Mask R-CNN of tf-models-official: configuration, ImageNet weights, training batches and step, SavedModel.

That library is built on tf_keras (Keras 2). Only the weights of the encoder come from Keras 3.
"""

import functools
import pathlib
import warnings
from collections.abc import Callable, Sequence

from app.detect import scenes
from app.detect.detector import COARSE_MASKS, PHOTO, bilinear

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from official.vision.configs import backbones, common, decoders, maskrcnn
from official.vision.ops import anchor, preprocess_ops
from official.vision.tasks import maskrcnn as tasks

warnings.filterwarnings("ignore", message="Input dict contained keys")  # the backbone has one level more
warnings.filterwarnings("ignore", message="The initializer VarianceScaling is unseeded")  # of separable layers

LEVELS = 3, 6  # of the feature pyramid: strides 8 to 64
ASPECTS = [0.5, 1.0, 2.0]  # width over height of the anchors
ANCHOR_SIZE = 3 / 320  # of the image's side, times the stride: 24, 48, 96 and 192 pixels at 320 px
HUBER_DELTA = 0.2  # of box errors; 1 is a tenth of the box's side
SAMPLED_ANCHORS = 256  # per photo, for the losses
SAMPLED_REGIONS = 64


def task(
    image_size: int, num_classes: int, *, filters: int, proposals: int, detections: int, weight_decay: float
) -> tasks.MaskRCNNTask:
    """The model and its losses, for images of `image_size` pixels a side, a multiple of 64.

    The feature pyramid and the heads have `filters` channels. The heads look at `proposals` regions, 32 or more, twice
    as many in training, and give at most `detections` in a photo. Class 0 is the background.
    """
    convolutions = {"num_filters": filters, "use_separable_conv": True}
    normalization = {"norm_momentum": 0.97, "norm_epsilon": 1e-3}  # for short trainings; of ImageNet's weights
    config = maskrcnn.MaskRCNNTask(
        model=maskrcnn.MaskRCNN(
            num_classes=num_classes,
            input_size=[image_size, image_size, 3],
            min_level=LEVELS[0],
            max_level=LEVELS[1],
            anchor=maskrcnn.Anchor(num_scales=1, aspect_ratios=ASPECTS, anchor_size=ANCHOR_SIZE * image_size),
            backbone=backbones.Backbone(type="mobilenet", mobilenet=backbones.MobileNet(model_id="MobileNetV2")),
            decoder=decoders.Decoder(type="fpn", fpn=decoders.FPN(**convolutions)),
            rpn_head=maskrcnn.RPNHead(**convolutions),
            detection_head=maskrcnn.DetectionHead(**convolutions, fc_dims=256, class_agnostic_bbox_pred=True),
            mask_head=maskrcnn.MaskHead(**convolutions, class_agnostic=True),
            roi_generator=maskrcnn.ROIGenerator(
                pre_nms_top_k=2 * proposals,
                num_proposals=2 * proposals,
                test_pre_nms_top_k=proposals,
                test_num_proposals=proposals,
                use_batched_nms=True,
            ),
            roi_sampler=maskrcnn.ROISampler(num_sampled_rois=SAMPLED_REGIONS),
            mask_sampler=maskrcnn.MaskSampler(num_sampled_masks=16),
            detection_generator=maskrcnn.DetectionGenerator(nms_version="batched", max_num_detections=detections),
            norm_activation=common.NormActivation(activation="relu6", use_sync_bn=False, **normalization),
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
    for layer in model.backbone.layers[:9]:  # strides 2 and 4 keep ImageNet's weights: a sixth of the time
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

    `draw` gives the scene with a number, image_size pixels wide and high, with at most `instances`; they begin with
    number `first`.
    """
    options = {"num_scales": 1, "aspect_ratios": ASPECTS, "anchor_size": ANCHOR_SIZE * image_size}
    anchors = anchor.build_anchor_generator(min_level=LEVELS[0], max_level=LEVELS[1], **options)((image_size,) * 2)
    labeler = anchor.RpnAnchorLabeler(rpn_batch_size_per_im=SAMPLED_ANCHORS)

    def draw_targets(number):
        scene = draw(int(number))
        return scene.image, *scenes.targets(scene)

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
        sizes = tf.repeat(size[tf.newaxis], len(images), axis=0)
        truth = {name: labels[name] for name in ("gt_boxes", "gt_classes", "gt_masks")}
        with tf.GradientTape() as tape:
            outputs = model(normalize(images), image_shape=sizes, training=True, **truth)
            losses = task.build_losses(outputs, labels, model.losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(losses["total_loss"], variables), variables, strict=True))
        return losses

    return step


def detector(model: tf_keras.Model, image_size: int, category_ids: Sequence[int]) -> tf.types.experimental.Callable:
    """A detector as in detector.py, of the network, whose classes 1, 2, ... are the categories of `category_ids`."""

    @tf.function(input_signature=[PHOTO])
    def detect(input_tensor):
        shape = tf.cast(tf.shape(input_tensor)[1:3], tf.float32)
        fitted = tf.maximum(tf.round(shape * tf.reduce_min(image_size / shape)), 1.0)
        image = tf.image.resize(input_tensor[0], tf.cast(fitted, tf.int32), antialias=True)
        padding = tf.cast(image_size - fitted, tf.int32)
        image = tf.pad(image, [[0, padding[0]], [0, padding[1]], [0, 0]], constant_values=128)
        image = tf.ensure_shape(normalize(image), (image_size, image_size, 3))
        outputs = model(image[tf.newaxis], image_shape=fitted[tf.newaxis], training=False)
        # Samples lie in the middle of their parts of the box; readers expect the first and the last on its edges.
        samples = outputs["detection_masks"].shape[-1]
        places = np.clip(np.linspace(0, samples, 2 * samples) - 0.5, 0, samples - 1)
        spread = tf.constant(bilinear(places, samples), tf.float32)
        ids = tf.constant([0, *category_ids], tf.int32)  # class 0 is the background
        return {
            "detection_boxes": tf.clip_by_value(outputs["detection_boxes"] / tf.tile(fitted, [2]), 0.0, 1.0),
            "detection_classes": tf.cast(tf.gather(ids, outputs["detection_classes"]), tf.float32),
            "detection_scores": outputs["detection_scores"],
            "detection_masks": tf.einsum("yh,bnhw,xw->bnyx", spread, outputs["detection_masks"], spread),
            "num_detections": tf.cast(outputs["num_detections"], tf.float32),
            COARSE_MASKS: tf.constant([1.0]),
        }

    return detect


def save(detect: Callable, folder: pathlib.Path) -> None:
    """Writes a detector as a SavedModel, its weights as constants in float16.

    With variables, TensorFlow would trace the network for training too, which fails.
    """
    concrete = detect.get_concrete_function()
    graph = concrete.graph.as_graph_def()
    names = [output.name for output in concrete.outputs]
    placeholders = {id(handle): placeholder.op.name for handle, placeholder in concrete.graph.captures}
    captured = {placeholders[id(variable.handle)]: variable.numpy() for variable in concrete.variables}
    for node in list(graph.node):
        if node.op == "ReadVariableOp" and node.input[0] in captured:
            half = graph.node.add(name=f"{node.name}/half", op="Const")
            half.attr["dtype"].type = tf.float16.as_datatype_enum
            half.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(captured[node.input[0]].astype(np.float16)))
            node.op = "Cast"
            node.input[:] = [half.name]
            node.attr.clear()
            node.attr["SrcT"].type = tf.float16.as_datatype_enum
            node.attr["DstT"].type = tf.float32.as_datatype_enum
        elif node.name in captured:
            graph.node.remove(node)

    @tf.function(input_signature=[PHOTO])
    def restored(input_tensor):
        outputs = tf.graph_util.import_graph_def(graph, {concrete.inputs[0].name: input_tensor}, names)
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)

    module = tf.Module()
    module.detect = restored
    tf.saved_model.save(module, str(folder), signatures={"serving_default": restored})
