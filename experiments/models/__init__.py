"""Models: `create` builds one, `sparse_leaves(name)` says what may be pruned.

A model is an NNX module that maps a batch of inputs to logits. It is built for
the shape of one input and the number of classes. Its class has the task that it
solves, `TASK`, and a regex over '/'-joined paths of the kernels that may be
sparse, `SPARSE`.
"""

from flax import nnx
import ml_collections

from experiments import data
from experiments._utils import names
from experiments.models.batch_norm_resnet import BatchNormResNet
from experiments.models.dlrm import DLRM
from experiments.models.lm import LM
from experiments.models.lm import PatchClassifier
from experiments.models.lm import TextClassifier
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet
from experiments.models.vgg import VGG
from experiments.models.vit import ViT

_DEPTHS = {f'resnet{depth}': depth for depth in (20, 32, 34, 50)}
_MODELS = {'mlp': MLP, 'resnet': ResNet, 'vit': ViT, 'vgg': VGG,
           **dict.fromkeys(_DEPTHS, BatchNormResNet),
           'lm': LM, 'text': TextClassifier,
           'text_patches': PatchClassifier, 'dlrm': DLRM}
SIZES = ('width', 'depth')  # Keys of a config; `None` is the model's default.


def create(config: ml_collections.ConfigDict, dataset: data.Dataset, *,
           rngs: nnx.Rngs) -> nnx.Module:
  """Returns the config's model for the inputs and classes of a data set.

  Args:
    config: a config with `model`, `width` and `depth`. `None` for a size is the
      default of the model.
    dataset: the data set whose inputs the model reads.
    rngs: for the new weights.

  Raises:
    ValueError: if the model is unknown, or solves another task.
  """
  model = names.lookup(_MODELS, config.model, kind='model')
  if model.TASK != dataset.task:
    fitting = [name for name, other in _MODELS.items()
               if other.TASK == dataset.task]
    raise ValueError(
        f'model {config.model!r} is for {model.TASK}, dataset '
        f'{config.dataset!r} for {dataset.task}; use {" or ".join(fitting)}')
  sizes = {key: config[key] for key in SIZES if config[key] is not None}
  if config.model in _DEPTHS:
    sizes.setdefault('depth', _DEPTHS[config.model])
  for key, value in sizes.items():
    if value < 1:
      raise ValueError(f'config.{key} must be at least 1, got {value}')
  if dataset.cardinalities:
    sizes['cardinalities'] = dataset.cardinalities
  return model(dataset.shape, dataset.classes, rngs=rngs, **sizes)


def sparse_leaves(name: str) -> str:
  """Returns the regex of the kernels of a model that may be sparse."""
  return names.lookup(_MODELS, name, kind='model').SPARSE
