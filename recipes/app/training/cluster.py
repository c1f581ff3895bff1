"""Training on several GPUs or machines: who takes part, and what Keras needs patched for it."""

import contextlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from app.cli import InputError, one_line, print_error

import keras
import tensorflow as tf

RESTARTS = 10  # without a finished epoch in between, before a worker gives up
COUNTER = "COOKBOOK_RESTARTS"  # environment variable, which survives the restart
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
LOST_WORDS = ("collective", "connection", "heartbeat", "socket", "coordination service", "peer")


class Team(NamedTuple):
    """The processes that train together. The first one, the chief, writes the files."""

    strategy: tf.distribute.Strategy
    worker: int = 0  # the number of this process
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def adapt(self, model: keras.Model) -> keras.Model:
        """Prepares a model: batch normalisation over the whole batch, and a `fit` that survives a lost worker."""
        if self.strategy.num_replicas_in_sync > 1:
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True
        if self.workers > 1:
            model.fit = restart_if_worker_lost()(model.fit)
        return model

    def share(self, pipeline: Callable[[int, int], tf.data.Dataset], batch_size: int):
        """The training data of this process, its part of each batch.

        Args:
          pipeline: called with a worker's number and the number of workers; returns that worker's part.
          batch_size: images in the global batch, over all workers and GPUs.
        """
        if self.workers == 1:  # the strategy itself splits a batch between the GPUs of one machine
            return pipeline(0, 1)
        per_replica = batch_size // self.strategy.num_replicas_in_sync
        return self.strategy.distribute_datasets_from_function(
            lambda _: pipeline(self.worker, self.workers).rebatch(per_replica)
        )

    def all_of(self, dataset: tf.data.Dataset):
        """The validation data of this process: every worker evaluates the full set, so their metrics agree."""
        return dataset if self.workers == 1 else self.strategy.distribute_datasets_from_function(lambda _: dataset)

    def agree(self, facts: dict, is_finished: bool) -> bool:
        """Checks that all workers run the same training; returns whether the chief's run is finished.

        Raises:
          InputError: if the facts of the workers differ.
        """
        if self.workers == 1:
            return is_finished
        digest = zlib.crc32(json.dumps(facts, sort_keys=True, default=str).encode())
        with restart_if_worker_lost():
            own = self.strategy.run(lambda: tf.constant([[digest, is_finished]], tf.int64))
            all_workers = self.strategy.gather(own, axis=0).numpy()
        if all_workers[:, 1].any():
            return True
        if len(set(all_workers[:, 0].tolist())) > 1:
            raise InputError(
                "TF_CONFIG: the workers differ; give all of them the same flags, one shared --output, and all or none "
                "of them --resume"
            )
        return False


def assemble(batch_size: int) -> Team:
    """Finds out who trains together: the cluster in TF_CONFIG, or all GPUs of this machine.

    For a cluster, call it before anything else uses TensorFlow; it waits for the other workers.

    Raises:
      InputError: if a batch cannot be split evenly, or TF_CONFIG is not valid.
    """
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}")
        tasks = (
            [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster["cluster"].get(kind, ())))]
            if cluster
            else []
        )
        own = (cluster["task"]["type"], int(cluster["task"]["index"])) if tasks else None
        if tasks and own not in tasks:
            raise ValueError(f"task {own} is not in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG: not valid ({type(error).__name__}: {error})") from error
    if len(tasks) > 1:
        patch_keras()
        try:
            with restart_if_worker_lost():
                team = Team(tf.distribute.MultiWorkerMirroredStrategy(), tasks.index(own), len(tasks))
        except tf.errors.UnknownError as error:  # "Could not start gRPC server"
            raise InputError(f"TF_CONFIG: {one_line(error)}; is the port of {own[0]} {own[1]} in use?") from error
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        names = [device.name for device in devices]
        team = Team(tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy())
    replicas = team.strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"--batch-size: {batch_size} cannot be shared by {replicas} devices; use a multiple of {replicas}"
        )
    return team


@contextlib.contextmanager
def restart_if_worker_lost() -> Iterator[None]:
    """Starts this process again, with --resume, if the block fails because another worker is gone.

    After RESTARTS attempts without a finished epoch it raises InputError; any other failure is raised as it is.
    """
    try:
        yield
    except tf.errors.OpError as error:
        attempt = int(os.environ.get(COUNTER, 0)) + 1
        if not is_worker_lost(error):
            raise
        if attempt > RESTARTS:
            reason = f"lost another worker again and again, without a finished epoch ({one_line(error)})"
            raise InputError(f"TF_CONFIG: {reason}; start all workers again with --resume") from error
        print_error(f"lost another worker ({one_line(error)}); restarting to wait for it, {attempt} of {RESTARTS}")
        sys.stdout.flush()
        time.sleep(2)
        os.environ[COUNTER] = str(attempt)
        command = [part for part in sys.orig_argv if part != "--resume"]
        os.execv(sys.executable, [*command, "--resume"])


def is_worker_lost(error: tf.errors.OpError) -> bool:
    """TensorFlow reports a lost worker as LOST, or as an InternalError that mentions the connection."""
    is_internal = isinstance(error, tf.errors.InternalError)
    return isinstance(error, LOST) or (is_internal and any(word in str(error).lower() for word in LOST_WORDS))


def reset_restarts() -> None:
    """To be called when an epoch is finished: the next loss gets RESTARTS attempts of its own."""
    os.environ.pop(COUNTER, None)


def patch_keras() -> None:
    """Patches what keeps `fit` of Keras 3.12 to 3.15 from working under MultiWorkerMirroredStrategy.

    Before the first step Keras averages a batch over the workers to learn its shape, which fails for images; and it
    averages each step's metrics along an axis that scalars do not have.
    """
    from keras.src.backend.tensorflow import trainer  # private to Keras, and needed here only

    def build(model, iterator=None, data_batch=None):
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            per_replica = model.distribute_strategy.experimental_local_results
            data_batch = tf.nest.map_structure(lambda values: per_replica(values)[0], next(batches))
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def reduce_per_replica(values, strategy, reduction):
        return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    trainer.TensorFlowTrainer._maybe_symbolic_build = build
    trainer.reduce_per_replica = reduce_per_replica
