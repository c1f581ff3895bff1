"""Keras' layers with the same weights and the same results, trained faster on a CPU.

    model = cpu_layers.swap_in(build_model(128, 3))

A convolution's gradient for its kernel is one matrix product here, after Chellapilla, Puri, Simard: High Performance
Convolutional Neural Networks for Document Processing, IWFHR 2006, section 3. Batch normalisation is one kernel, where
Keras makes a dozen passes over the images, in float32.
"""

import keras
import tensorflow as tf
from keras import layers


class Conv2D(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        strides, padding = self.strides, self.padding.upper()

        @tf.custom_gradient
        def convolve(inputs, kernel):
            def gradient(upstream):
                for_inputs = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), strides, padding)
                return for_inputs, kernel_gradient(inputs, upstream, kernel.shape, strides, padding)

            return tf.nn.conv2d(inputs, kernel, strides, padding), gradient

        return convolve(inputs, tf.convert_to_tensor(kernel))


class Conv2DTranspose(layers.Conv2DTranspose):
    def call(self, inputs):
        strides, padding = self.strides, self.padding.upper()
        shape = (tf.shape(inputs)[0], *self.compute_output_shape(inputs.shape)[1:])

        @tf.custom_gradient
        def convolve(inputs, kernel):
            def gradient(upstream):
                for_inputs = tf.nn.conv2d(upstream, kernel, strides, padding)
                return for_inputs, kernel_gradient(upstream, inputs, kernel.shape, strides, padding)

            return tf.nn.conv2d_transpose(inputs, kernel, shape, strides, padding), gradient

        outputs = convolve(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(outputs + self.bias if self.use_bias else outputs)


def kernel_gradient(larger, smaller, shape, strides, padding) -> tf.Tensor:
    """The gradient for the kernel, [height, width, channels of `larger`, channels of `smaller`], of a convolution.

    Args:
      larger, smaller: its two sides [B, H, W, channels], of which one is a gradient. The kernel walks over `larger`.
    """
    height, width, *_ = shape
    patches = tf.image.extract_patches(larger, (1, height, width, 1), (1, *strides, 1), (1, 1, 1, 1), padding)
    rows, columns = (tf.reshape(side, (-1, side.shape[-1])) for side in (patches, smaller))
    return tf.reshape(tf.linalg.matmul(rows, columns, transpose_a=True), shape)


class BatchNormalization(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        if self.synchronized:  # over several devices, which the kernel does not know of
            return super().call(inputs, training, mask)
        is_training = bool(training and self.trainable)
        moving = (self.moving_mean, self.moving_variance)
        outputs, *batch, _, _, _ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[] if is_training else moving[0],
            variance=[] if is_training else moving[1],
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            count = tf.cast(tf.size(inputs) / inputs.shape[-1], "float32")
            batch[1] *= (count - 1) / count  # the kernel's is that of a sample, Keras' that of the batch
            for average, value in zip(moving, batch, strict=True):
                average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs


FASTER = {kind.__base__: kind for kind in (Conv2D, Conv2DTranspose, BatchNormalization)}


def swap_in(model: keras.Model) -> keras.Model:
    """A copy of a functional model with the faster layers, where they are faster and know what the layer asks for."""
    return _copy(model, lambda layer: FASTER[type(layer)] if _is_faster(layer) else type(layer))


def _is_faster(layer) -> bool:
    if type(layer) is layers.BatchNormalization:
        return len(layer.input.shape) == 4 and layer.axis in (-1, 3) and layer.scale and layer.center
    if type(layer) not in FASTER or layer.data_format != "channels_last" or layer.dilation_rate != (1, 1):
        return False
    smaller = layer.input if isinstance(layer, layers.Conv2DTranspose) else layer.output
    _, height, width, channels = smaller.shape
    # oneDNN's own gradient for a kernel wins where there are more pixels than channels.
    return getattr(layer, "groups", 1) == 1 and None not in (height, width) and height * width <= channels


def swap_out(model: keras.Model) -> keras.Model:
    """A copy of a functional model with Keras' own layers alone, in float32."""
    plain = {kind: base for base, kind in FASTER.items()}
    return _copy(model, lambda layer: plain.get(type(layer), type(layer)), dtype="float32")


def _copy(model: keras.Model, kind, **config) -> keras.Model:
    def copy(layer):  # an operation without weights, like a slice, has no dtype
        return kind(layer).from_config({**layer.get_config(), **(config if isinstance(layer, keras.Layer) else {})})

    uncompiled = keras.Model(model.input, model.output, name=model.name)
    copied = keras.models.clone_model(uncompiled, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied
