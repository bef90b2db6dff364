"""Installs jaxsparse; `pip install -e '.[tests]'` for everything here."""

import pathlib

import setuptools

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
_TESTS = _EXPERIMENTS + [
    'chex>=0.1.91',
    'hypothesis>=6.100',
    'jupytext>=1.16',
    'pytest>=8.0',
    'pytest-xdist>=3.5',
]

setuptools.setup(
    name='jaxsparse',
    version='0.1.0',
    description='A functional sparsity toolkit for JAX and Flax.',
    long_description=pathlib.Path(__file__).with_name('README.md').read_text(
        encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['jaxsparse', 'jaxsparse.*']),
    python_requires='>=3.11',
    install_requires=['jax>=0.8', 'numpy>=1.26', 'optax>=0.2.6'],
    extras_require={'experiments': _EXPERIMENTS, 'tests': _TESTS},
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
