"""Models: `create(name)` builds one, `sparse_leaves(name)` says what to prune.

A model is an NNX module from images `[N, 8, 8, 1]` to logits `[N, 10]`. Its
class names the kernels that may be sparse, as a regex over '/'-joined paths.
"""

from flax import nnx

from experiments import names
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT

_MODELS = {'mlp': MLP, 'resnet': ResNet, 'vit': ViT}


def create(name: str, *, width: int | None, rngs: nnx.Rngs) -> nnx.Module:
  """Returns the model of that name; `None` is the width it is made for."""
  model = names.lookup(_MODELS, name, kind='model')
  return model(rngs=rngs) if width is None else model(width=width, rngs=rngs)


def sparse_leaves(name: str) -> str:
  """Returns the regex of the kernels that this model lets be sparse."""
  return names.lookup(_MODELS, name, kind='model').SPARSE
