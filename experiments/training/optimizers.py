"""The dense optimizers that methods make sparse."""

import ml_collections
import optax

from experiments._utils import names

Config = ml_collections.ConfigDict


def optimizer(config: Config) -> optax.GradientTransformation:
  """Returns the dense optimizer of a config.

  `adamw` decays weights apart from their gradients, `sgd` as an L2 penalty
  would.

  Raises:
    ValueError: if there is no optimizer or schedule of that name.
  """
  schedule, decay = learning_rate(config), config.weight_decay
  return names.lookup({
      'adamw': lambda: optax.adamw(schedule, weight_decay=decay),
      'sgd': lambda: optax.chain(
          optax.add_decayed_weights(decay),
          optax.sgd(schedule, momentum=config.momentum)),
  }, config.optimizer, kind='optimizer')()


def learning_rate(config: Config) -> optax.Schedule:
  """Returns the config's learning rate by step.

  That of `steps` falls to a tenth after one half and again after three quarters
  of training.

  Raises:
    ValueError: if there is no schedule of that name.
  """
  peak, end = config.learning_rate, config.steps
  return names.lookup({
      'warmup_cosine': lambda: optax.warmup_cosine_decay_schedule(
          0., peak, end // 10, end),
      'steps': lambda: optax.piecewise_constant_schedule(
          peak, {end // 2: 0.1, end * 3 // 4: 0.1}),
  }, config.learning_rate_schedule, kind='learning rate schedule')()
