"""Keras layers that train faster on a CPU, with the same weights and results (measured on x86 with oneDNN).

    model = layers.optimize_for_cpu(build_model(128, 3))

Batch normalisation is one kernel, where Keras converts the images to float32 and passes over them a dozen times. For
small images with many channels, the kernel gradient of a convolution is one matrix product, which oneDNN lacks, and so
is a transposed convolution with few output channels (Chellapilla, Puri, Simard: High Performance
Convolutional Neural Networks for Document Processing, IWFHR 2006, section 3). The input gradient of a strided depthwise
convolution becomes one without strides.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

CHANNELS_PER_MAP = 16  # measured: with this many input channels per output channel, the product is faster


class ConvByProducts(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        strides = self.strides
        padding = self.padding.upper()

        @tf.custom_gradient
        def convolve(inputs, kernel):
            def gradient(upstream):
                for_inputs = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), strides, padding)
                return for_inputs, kernel_gradient(inputs, upstream, kernel.shape, strides, padding)

            return tf.nn.conv2d(inputs, kernel, strides, padding), gradient

        return convolve(inputs, tf.convert_to_tensor(kernel))


class ConvTransposeByProducts(layers.Conv2DTranspose):
    def call(self, inputs):
        convolve = self.by_blocks if _has_few_maps(self) else self.convolve
        outputs = convolve(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(outputs + self.bias if self.use_bias else outputs)

    def by_blocks(self, inputs, kernel):
        """The kernel is twice the stride, so each input pixel adds to four blocks of stride x stride pixels."""
        _, height, width, channels = inputs.shape
        stride = self.strides[0]
        kernel = tf.reshape(kernel, (2, stride, 2, stride, self.filters, channels))
        kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1, 3, 4, 5)), (-1, channels))
        blocks = tf.linalg.matmul(tf.reshape(inputs, (-1, channels)), kernel, transpose_b=True)
        blocks = tf.split(tf.reshape(blocks, (-1, height, width, kernel.shape[0])), 4, axis=-1)
        corners = ((0, 0), (0, 1), (1, 0), (1, 1))
        blocks = [
            tf.pad(block, ((0, 0), (down, 1 - down), (right, 1 - right), (0, 0)))
            for block, (down, right) in zip(blocks, corners, strict=True)
        ]
        margin = stride // 2
        return tf.nn.depth_to_space(tf.add_n(blocks), stride)[:, margin:-margin, margin:-margin]

    def convolve(self, inputs, kernel):
        strides = self.strides
        padding = self.padding.upper()
        shape = (tf.shape(inputs)[0], *self.compute_output_shape(inputs.shape)[1:])

        @tf.custom_gradient
        def convolve(inputs, kernel):
            def gradient(upstream):
                for_inputs = tf.nn.conv2d(upstream, kernel, strides, padding)
                return for_inputs, kernel_gradient(upstream, inputs, kernel.shape, strides, padding)

            return tf.nn.conv2d_transpose(inputs, kernel, shape, strides, padding), gradient

        return convolve(inputs, kernel)


def kernel_gradient(larger, smaller, shape, strides, padding) -> tf.Tensor:
    """The kernel gradient of a convolution, [height, width, channels of `larger`, channels of `smaller`].

    Args:
      larger, smaller: its input and output [B, H, W, channels], one of them as a gradient. The kernel slides over
        `larger`.
    """
    height, width, *_ = shape
    patches = tf.image.extract_patches(larger, (1, height, width, 1), (1, *strides, 1), (1, 1, 1, 1), padding)
    rows = tf.reshape(patches, (-1, patches.shape[-1]))
    columns = tf.reshape(smaller, (-1, smaller.shape[-1]))
    return tf.reshape(tf.linalg.matmul(rows, columns, transpose_a=True), shape)


class SpreadDepthwiseConv2D(layers.DepthwiseConv2D):
    def call(self, inputs):
        stride = self.strides[0]
        strides = (1, stride, stride, 1)

        @tf.custom_gradient
        def convolve(inputs, kernel):
            def gradient(upstream):
                for_kernel = tf.nn.depthwise_conv2d_backprop_filter(inputs, kernel.shape, upstream, strides, "VALID")
                # With zeros between its pixels the convolution needs no strides, and oneDNN is fast.
                _, height, width, channels = upstream.shape
                spread = tf.pad(upstream, ((0, 0), (0, 0), (0, 0), (0, (stride**2 - 1) * channels)))
                around = [
                    (size - 1, whole - stride * part)
                    for size, whole, part in zip(kernel.shape[:2], inputs.shape[1:3], (height, width), strict=True)
                ]
                spread = tf.pad(tf.nn.depth_to_space(spread, stride), ((0, 0), *around, (0, 0)))
                return tf.nn.depthwise_conv2d(spread, kernel[::-1, ::-1], (1, 1, 1, 1), "VALID"), for_kernel

            return tf.nn.depthwise_conv2d(inputs, kernel, strides, "VALID"), gradient

        outputs = convolve(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(outputs + self.bias if self.use_bias else outputs)


class FusedBatchNormalization(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        if self.synchronized or mask is not None:  # several devices, or a mask: the kernel supports neither
            return super().call(inputs, training, mask)
        is_training = bool(training and self.trainable)
        outputs, mean, variance, _, _, _ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[] if is_training else self.moving_mean,
            variance=[] if is_training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            count = tf.cast(tf.size(inputs) / inputs.shape[-1], "float32")
            variance *= (count - 1) / count  # the kernel divides by count - 1, Keras by count
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs


FASTER = {
    kind.__base__: kind
    for kind in (ConvByProducts, ConvTransposeByProducts, SpreadDepthwiseConv2D, FusedBatchNormalization)
}
PLAIN = {faster: plain for plain, faster in FASTER.items()}


def optimize_for_cpu(model: keras.Model) -> keras.Model:
    """Copies a functional model, with a faster layer wherever one is faster and supports the layer's options."""
    return _copy(model, lambda layer: FASTER[type(layer)] if _is_faster(layer) else type(layer))


def as_plain_keras(model: keras.Model) -> keras.Model:
    """Copies a functional model, with Keras' own layers only, in float32.

    The next call with the same model returns the same copy, with new weights: a training saves its model often.
    """
    copied = _plain_copy(model, tuple(layer.trainable for layer in model.layers))
    copied.set_weights(model.get_weights())
    return copied


@functools.lru_cache(maxsize=1)
def _plain_copy(model: keras.Model, trainable: tuple[bool, ...]) -> keras.Model:
    del trainable  # only tells copies apart: the layers record it
    return _copy(model, lambda layer: PLAIN.get(type(layer), type(layer)), dtype="float32")


def _is_faster(layer) -> bool:
    if type(layer) is layers.BatchNormalization:
        is_usual = layer.scale and layer.center and not getattr(layer, "renorm", False)
        return is_usual and len(layer.input.shape) == 4 and layer.axis in (-1, 3) and layer.variable_dtype == "float32"
    if type(layer) not in FASTER or layer.data_format != "channels_last":
        return False
    if layer.dilation_rate != (1, 1) or None in (*layer.input.shape[1:], *layer.output.shape[1:]):
        return False
    if type(layer) is layers.DepthwiseConv2D:
        stride, other = layer.strides
        is_strided = layer.padding == "valid" and 1 < stride == other <= min(layer.kernel_size)
        return is_strided and layer.depth_multiplier == 1
    is_transposed = type(layer) is layers.Conv2DTranspose
    if not is_transposed and layer.groups > 1:
        return False
    _, height, width, channels = (layer.input if is_transposed else layer.output).shape
    # Measured: from here on the product is as fast or faster.
    return height * width <= channels or (is_transposed and _has_few_maps(layer))


def _has_few_maps(layer) -> bool:
    stride, other = layer.strides
    is_twice = stride == other and stride % 2 == 0 and layer.kernel_size == (2 * stride, 2 * stride)
    if layer.padding != "same" or layer.output_padding is not None or not is_twice:
        return False
    return CHANNELS_PER_MAP * layer.filters <= layer.kernel.shape[-1]


def _copy(model: keras.Model, class_of: Callable[[keras.Operation], type], **config) -> keras.Model:
    def copy(layer):  # an operation, like a slice, has no dtype
        changed = config if isinstance(layer, keras.Layer) else {}
        return class_of(layer).from_config({**layer.get_config(), **changed})

    uncompiled = keras.Model(model.input, model.output, name=model.name)  # clone_model would compile it again
    copied = keras.models.clone_model(uncompiled, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied
