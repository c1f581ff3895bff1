"""How the weights are updated: Adam, and the learning rate over a training."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("cookbook")
class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's own kernel, which goes over the weights once in each step.

    Keras goes over them a dozen times, which takes three times as long on a CPU; the result is the same. There is no
    weight decay: a decay of 1e-4 times the learning rate, a usual setting, takes less than 0.1 % off a weight.
    Source: Kingma, Ba: Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = tf.cast(learning_rate, variable.dtype)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def warm_up_and_cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises to `peak` in the first 5 % of steps and falls to nothing along a cosine.

    Without the rise Adam's first steps, whose statistics are still those of a few batches, are too long. Source of
    the cosine: Loshchilov, Hutter: SGDR, ICLR 2017, section 3.
    """
    warm_up = max(1, round(0.05 * steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=peak, warmup_steps=warm_up
    )
