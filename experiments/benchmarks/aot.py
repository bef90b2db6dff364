"""Compiles the packed kernels to machine code, without the devices.

  python -m pip install jax-cuda13-plugin jax-cuda13-pjrt libtpu
  python -m experiments.benchmarks.aot

This runs on a machine with only a CPU, if the versions of those wheels match
jax. It finds problems that lowering does not find: too few registers,
instructions that ptxas serializes, operations that Mosaic lacks on some TPU.
Each target is compiled in its own process. The script checks:

- For every config of the Hopper kernel that `choose` returns at the sizes of
  the benchmark, the code contains `wgmma.mma_async.sp`, no registers are
  spilled, and ptxas prints no warning (it warns about a serialized `wgmma`).
- For the TPU kernel on v5e, v5p and v6e, a grid step has no more instruction
  bundles than the clocks in which its block of a *dense* weight is read. With
  more bundles the kernel could not be faster than the dense product. All
  bundles of the kernel are counted, also those of the first and the last step.
  For v4 and TPU7x the numbers are listed but not checked.

It exits with an error if a check fails or if no wheel is installed.
"""

import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from absl import app
from absl import flags
import jax
from jax.experimental import topologies
import jax.numpy as jnp

from experiments.benchmarks import timing
from jaxsparse.packed.kernels import hopper
from jaxsparse.packed.kernels import tpu

_TARGETS = flags.DEFINE_list(
    'targets', None, 'Any of h200, v4, v5e, v5p, v6e, tpu7x; by default all '
    'whose wheels are installed.')
_TOKENS = flags.DEFINE_list(
    'tokens', ['1', '8', '16', '32', '64', '200', '1024', '8192'],
    'Rows of the dense operand.')
_SIZES = flags.DEFINE_list(
    'sizes', ['4096x4096', '8192x8192', '28672x8192', '8192x28672',
              '14336x4096'], 'Outputs x inputs of weights.')
_CHILD = flags.DEFINE_string(
    'child', None, 'File for the results of the one target; set only by the '
    'parent process.')

# Topology; bytes of memory a clock and core, by data sheets (the clocks of v6e
# and TPU7x are derived from their peaks); whether a gain is promised.
_TPUS = {
    'v4': ('v4:2x2x1', 585, False),
    'v5e': ('v5e:2x2', 545, True),
    'v5p': ('v5p:2x2x1', 790, True),
    'v6e': ('v6e:2x2', 935, True),
    'tpu7x': ('tpu7x:2x2x1', 1680, False),
}
_HEAD = ['target', 'compiled', 'registers', 'shared KB', 'bundles', 'budget',
         'spills', 'found']
# Facts of the GPU that Pallas needs and XLA's description of it lacks.
_H200 = dict(device_kind='NVIDIA H200', platform='cuda', num_cores=132)


def ptxas_problems(log: str) -> list[str]:
  """The problems in the output of `ptxas -v`."""
  spills = re.findall(r'(\d+) bytes spill (stores|loads)', log)
  problems = [line.strip() for line in log.splitlines()
              if re.search('warning|error|performance', line, re.I)]
  if not spills:
    problems.append('ptxas said nothing of spills')
  return problems + [f'{n} bytes of spill {what}' for n, what in spills
                     if n != '0']


def installed(target: str) -> bool:
  """Whether the wheels that compile for a target are installed."""
  modules = (('jax_cuda13_plugin', 'jax_cuda12_plugin') if target == 'h200'
             else ('libtpu',))
  return any(importlib.util.find_spec(m) for m in modules)


def _environment(target, scratch):
  """Environment variables that must be set before jax is imported."""
  env = os.environ | {'JAX_PLATFORMS': 'cpu'}
  if target == 'h200':
    return env | {
        'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
        'MOSAIC_GPU_DUMP_TO': scratch, 'MOSAIC_GPU_DUMP_PTX': '1',
        'MOSAIC_GPU_DUMP_PTXAS': '1'}
  library = importlib.util.find_spec('libtpu').submodule_search_locations[0]
  return env | {
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # No device is opened.
      'TPU_SKIP_MDS_QUERY': '1',
      'TPU_LIBRARY_PATH': os.path.join(library, 'libtpu.so'),
      'LIBTPU_INIT_ARGS': (
          f'--xla_jf_dump_to={scratch} --xla_jf_dump_llo_text=true '
          '--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*')}


def _described(topology, *shapes_and_dtypes):
  """Shapes on the first device of a topology."""
  sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
  return [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
          for shape, dtype in shapes_and_dtypes]


def _products():
  """(T, K, N) of the flags."""
  for tokens in _TOKENS.value:
    for size in _SIZES.value:
      outputs, features = map(int, size.split('x'))
      yield int(tokens), features, outputs


def _h200(scratch):
  """Rows of the table for every chosen config."""
  description = pathlib.Path(__file__).with_name('h200.txtpb')
  topology = topologies.get_topology_desc(
      platform='cuda', topology='1x1x1',
      target_config=description.read_text(encoding='utf-8'))
  mesh = jax.sharding.AbstractMesh(
      (), (), abstract_device=jax.sharding.AbstractDevice(**_H200))
  configs = {}
  for t, k, n in _products():
    configs.setdefault(hopper.choose(t, k, n), (t, k, n))
  for dtype, (config, (t, k, n)) in [
      *((jnp.bfloat16, item) for item in configs.items()),
      # Another dtype changes the name of the instruction only.
      (jnp.float16, next(iter(configs.items())))]:
    args = _described(
        topology, ((t, k), dtype), ((n, k // 2), dtype),
        ((n // 64, k // 128, 256), jnp.int32))
    with jax.sharding.use_abstract_mesh(mesh):
      jax.jit(hopper.matmul).lower(*args).compile()
    ptx, log, resources = (_newest(scratch, f'*.{e}') for e in (
        'ptx', 'ptxas', 'resources.txt'))
    problems = ptxas_problems(log)
    if 'wgmma.mma_async.sp' not in ptx:
      problems.append('no wgmma.mma_async.sp')
    yield {
        'compiled': f'{jnp.dtype(dtype)} {t}x{k}x{n} ' + ' '.join(
            f'{name}={value}' for name, value in config._asdict().items()),
        'registers': re.search(r'Used (\d+) registers', log)[1],
        'shared KB': int(re.search(
            r'smem_scratch_bytes=(\d+)', resources)[1]) // 1024,
        'spills': sum(int(n) for n in re.findall(
            r'(\d+) bytes spill', log)),
        'found': problems}


def _tpu(scratch, target):
  """Rows of the table for one kind of TPU."""
  name, bytes_a_clock, promised = _TPUS[target]
  topology = topologies.get_topology_desc(platform='tpu', topology_name=name)
  compiled = set()
  for t, k, n in _products():
    args = _described(
        topology, ((t, k), jnp.bfloat16), ((2, k // 4, n), jnp.bfloat16),
        ((k // 32, n), jnp.int32))
    steps, blocks = _grid(tpu.matmul, *args)
    if t > 64 or blocks in compiled:
      continue  # More tokens are not bound by reading the weight.
    compiled.add(blocks)
    jax.jit(tpu.matmul).lower(*args).compile()
    analysis, bundles = (_newest(scratch, f'*matmul*-{e}.txt') for e in (
        'schedule-analysis_final_bundles', '*-final_bundles'))
    count = int(re.search(r'total scheduled bundles: *(\d+)', analysis)[1])
    budget = int(2 * k * n / bytes_a_clock / steps)
    yield {
        'compiled': f'{t}x{k}x{n} in blocks of {blocks}',
        'bundles': count, 'budget': budget,
        'spills': len(re.findall(r'v(?:st|ld)[^;]*_spill', bundles)),
        'found': ['more bundles than the budget'] * (
            promised and count > budget)}


def _grid(f, *args):
  """The number of grid steps, and the blocks, of a function's pallas_call."""
  [call] = [e for e in jax.make_jaxpr(f)(*args).eqns
            if e.primitive.name == 'pallas_call']
  mapping = call.params['grid_mapping']
  return math.prod(mapping.grid), ' '.join(
      'x'.join(str(getattr(n, 'block_size', n)) for n in block.block_shape)
      for block in mapping.block_mappings)


def _newest(scratch, pattern):
  """The text of a dump, the last one if there are several."""
  paths = sorted(pathlib.Path(scratch).glob(pattern),
                 key=lambda p: p.stat().st_mtime_ns)
  return paths[-1].read_text(encoding='utf-8', errors='replace')


def _compile(target: str) -> list[dict[str, Any]]:
  """Rows of the table, from a process with the settings of a target."""
  with tempfile.TemporaryDirectory() as scratch:
    report = os.path.join(scratch, 'report.json')
    child = subprocess.run(
        [sys.executable, '-m', 'experiments.benchmarks.aot',
         f'--targets={target}', f'--child={report}',
         f'--tokens={",".join(_TOKENS.value)}',
         f'--sizes={",".join(_SIZES.value)}'],
        env=_environment(target, scratch), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding='utf-8', errors='replace',
        check=False)
    if child.returncode:
      return [{'target': target, 'found': [
          'did not compile: ' + child.stdout[-3000:]]}]
    rows = json.loads(pathlib.Path(report).read_text(encoding='utf-8'))
    return [{'target': target, **row} for row in rows]


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  if _CHILD.value:
    [target] = _TARGETS.value
    scratch = os.path.dirname(_CHILD.value)
    rows = list(
        _h200(scratch) if target == 'h200' else _tpu(scratch, target))
    pathlib.Path(_CHILD.value).write_text(json.dumps(rows), encoding='utf-8')
    return 0
  targets = _TARGETS.value or [
      t for t in ('h200', *_TPUS) if installed(t)]
  for target in targets:
    if target not in ('h200', *_TPUS) or not installed(target):
      raise app.UsageError(
          f'--targets must be of h200, {", ".join(_TPUS)}, with their wheels '
          f'installed (jax-cuda13-plugin and jax-cuda13-pjrt, or libtpu), got '
          f'{target}')
  if not targets:
    raise app.UsageError(
        'No compiler is installed. Install jax-cuda13-plugin and '
        'jax-cuda13-pjrt, in the version of jax, or libtpu')
  rows = [row for target in targets for row in _compile(target)]
  timing.print_table(_HEAD, [
      [row.get(name, '') for name in _HEAD[:-1]]
      + ['; '.join(row['found']) or 'ok'] for row in rows])
  return int(any(row['found'] for row in rows))


if __name__ == '__main__':
  app.run(main)
