"""2:4 matmul on the sparse tensor cores of Hopper GPUs (H100, H200).

One persistent Pallas Mosaic GPU kernel computes tiles of `w.T @ x.T`, because
the instruction, `wgmma.mma_async.sp`, takes its sparse operand from the left:
a memory warpgroup fills stages of shared memory by TMA across the borders of
tiles, and one or two compute warpgroups empty them. Pallas has no sparse
operand for it, so `_multiply` writes the instruction as PTX.
`Config` has the tile sizes, `choose` estimates good ones, and `tune` measures.

The result is transposed on its way through shared memory, so that TMA stores it
as `[T, N]`; both are operations of Mosaic GPU on logical arrays. Parts of a
split contraction are stored as float32, and XLA sums them.

Private modules of JAX are imported only when a kernel is used. A config has no
meaning without its kernel, so both are in this file.
"""

import math
from typing import Any, Callable, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# A block of positions: 64 outputs and 128 rows of w, of which half are kept, so
# that a row of values is as wide as a swizzle, 128 bytes.
_ROWS = 128
_OUT_BYTES = 8192  # Shared memory through which a warpgroup writes.
_SHARED = 232_448  # Bytes of shared memory that a block may take: 227 KB.
_DTYPES = {'bfloat16': 'bf16', 'float16': 'f16'}


class Config(NamedTuple):
  """How the product is cut for the GPU.

  A block computes tiles of `rows * warpgroups` outputs (columns of w) times
  `columns` tokens.

  Attributes:
    rows: outputs of a compute warpgroup: 64, or 128.
    warpgroups: compute warpgroups of a block: 1, or 2.
    columns: tokens of a tile: the width of the instruction, 8 to 256.
    depth: rows of w that a stage holds: 128, or 256.
    stages: stages in flight.
    split: parts that the contraction is cut into; they are summed by XLA.
    cluster: blocks that share their tokens by multicast: 1, or 2.
    band: row tiles that are walked together, for the L2 cache.
  """
  rows: int
  warpgroups: int
  columns: int
  depth: int
  stages: int
  split: int = 1
  cluster: int = 1
  band: int = 8


# The results of `tune`, by the device, shapes and dtype of a product.
_TUNED: dict[tuple, Config] = {}


def matmul(
    x: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    *,
    out_dtype: jax.typing.DTypeLike | None = None,
    config: Config | None = None,
) -> jax.Array:
  """`x @ w` for a 2:4 weight in the Hopper layout: `y[t, n] = sum_k x w`.

  It lowers for CUDA on any machine; `available` says whether the present device
  can run it.

  Args:
    x: `[T, K']` bfloat16 or float16; T from 1, K' a multiple of 256.
    values: `[N', K' / 2]` of the same dtype, the kept entries in order; N' a
      multiple of 128.
    positions: `[N' / 64, K' / 128, 256]` int32, as the instruction reads them.
    out_dtype: bfloat16, float16 or float32; that of x by default. Sums are
      float32.
    config: how to cut the product. By default the config that `tune` found, or
      else that of `choose`.

  Returns:
    `[T, N']`.

  Raises:
    NotImplementedError: if the kernel does not support the operands.
    ValueError: for a config that does not fit.

  References:
    NVIDIA, Parallel Thread Execution ISA, "Asynchronous warpgroup level
    multiply-and-accumulate operation using wgmma.mma_async.sp",
    https://docs.nvidia.com/cuda/parallel-thread-execution/
  """
  check(x.shape, x.dtype, values.shape)
  out_dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
  if values.dtype != x.dtype or out_dtype.name not in (*_DTYPES, 'float32'):
    raise NotImplementedError(
        f'the Hopper kernel multiplies two of a dtype into bfloat16, float16 '
        f'or float32: got x of {x.dtype}, values of {values.dtype} and '
        f'out_dtype={out_dtype}')
  (tokens, features), outputs = x.shape, values.shape[0]
  expected = (outputs // 64, features // _ROWS, 2 * _ROWS)
  if positions.shape != expected or positions.dtype != jnp.int32:
    raise ValueError(
        f'values of {values.shape} have positions of {expected}, int32, in the '
        f'Hopper layout, but these are {positions.dtype}{positions.shape}')
  num_sms = _num_sms()
  if config is None:
    config = config_of(tokens, values.shape, x.dtype) or choose(
        tokens, features, outputs, num_sms)
  elif not fits(config, features, outputs):
    raise ValueError(
        f'{config} does not divide K={features} and N={outputs} or does not '
        f'fit in {_SHARED} bytes of shared memory and 128 accumulators a '
        f'thread; choose({tokens}, {features}, {outputs}) does')
  x = jnp.pad(x, ((0, -tokens % config.columns), (0, 0)))
  y = _product(
      x, values, positions, out_dtype if config.split == 1 else
      jnp.dtype(jnp.float32), config, num_sms)
  y = y[0] if config.split == 1 else jnp.sum(y, 0).astype(out_dtype)
  return y[:tokens]


def check(
    x_shape: tuple[int, ...], dtype: jax.typing.DTypeLike,
    values_shape: tuple[int, ...]
) -> None:
  """Raises what a product's shapes and dtype are refused for.

  Args:
    x_shape: `(T, K')`.
    dtype: the dtype of both operands.
    values_shape: `(N', K' / 2)`.

  Raises:
    NotImplementedError: for another dtype than bfloat16 and float16, for no
      tokens, and for a jax that has moved what the kernel uses.
    ValueError: for shapes that do not belong together.
  """
  if jnp.dtype(dtype).name not in _DTYPES:
    raise NotImplementedError(
        f'the Hopper kernel multiplies bfloat16 and float16, not '
        f'{jnp.dtype(dtype).name}')
  (tokens, features), (outputs, kept) = x_shape, values_shape
  if features != 2 * kept or features % 256 or outputs % 128:
    raise ValueError(
        f'x[T, K] and values[N, K / 2] have K a multiple of 256 and N one of '
        f'128, but x is {x_shape} and values {values_shape}; pad both with '
        f'zeros')
  if not tokens * features * outputs:
    raise NotImplementedError('the Hopper kernel does no empty products')
  _private()


def available() -> str | None:
  """Why the device at hand does not run the kernel; `None` if it does."""
  device = _device()
  if device.platform not in ('gpu', 'cuda'):
    return f'the default device is a {device.platform}, not a Hopper GPU'
  # A described device has no capability, only a name.
  if hasattr(device, 'compute_capability'):
    hopper = str(device.compute_capability).startswith('9.')
  else:
    hopper = any(n in device.device_kind for n in ('H100', 'H200', 'H800'))
  return None if hopper else (
      f'{device.device_kind} has no wgmma.mma_async.sp: a Hopper GPU, compute '
      f'capability 9.0, does')


def fits(config: Config, features: int, outputs: int) -> bool:
  """Whether a config divides the product and fits in a multiprocessor."""
  rows, warpgroups, columns, depth, stages, split, cluster, band = config
  block_rows = rows * warpgroups
  # A row of w: a byte each, and an eighth for positions; x; two barriers.
  stage = block_rows * depth * 9 // 8 + columns * depth * 2 + 16
  shared = stages * stage + warpgroups * _OUT_BYTES
  return (rows in (64, 128) and depth in (128, 256)
          and warpgroups in (1, 2) and cluster in (1, 2) and band >= 1
          and columns in (8, 16, 32, 64, 128, 256)
          and 2 <= stages <= 32 and rows * columns <= 128 * 128
          and shared <= _SHARED and outputs % (block_rows * cluster) == 0
          and split >= 1 and features % (depth * split) == 0)


def choose(tokens: int, features: int, outputs: int, num_sms: int = 132
           ) -> Config:
  """The config that a model of an H200 likes best; always one that fits.

  Args:
    tokens: rows of x.
    features: K', a multiple of 256.
    outputs: N', a multiple of 128.
    num_sms: multiprocessors of the device.

  Returns:
    A config; nothing is measured for it, `tune` does that.

  >>> choose(16, 8192, 8192).columns
  16
  """
  return _candidates(tokens, features, outputs, num_sms)[0]


def tune(
    x: jax.Array, values: jax.Array, positions: jax.Array, *,
    clock: Callable[[], float],
    out_dtype: jax.typing.DTypeLike | None = None, candidates: int = 8,
    repeats: int = 20
) -> Config:
  """Times the likeliest configs on the device and keeps the fastest.

  `matmul` uses it from then on, for products of the same shapes and dtype in
  this process; what is compiled already stays as it is.

  Args:
    x: see `matmul`.
    values: see `matmul`.
    positions: see `matmul`.
    clock: `time.perf_counter`.
    out_dtype: see `matmul`.
    candidates: the number of configs to try.
    repeats: products in a timed run.

  Returns:
    The fastest config.
  """
  # More weights than the L2 cache holds, or it would be the cache that counts.
  copies = [(values + 0, positions) for _ in range(
      min(repeats, 1 + 2 ** 27 // values.nbytes))]

  def seconds(config):
    @jax.jit
    def run(x, weights):
      y = None
      for i in range(repeats):
        y = matmul(x, *weights[i % len(weights)], out_dtype=out_dtype,
                   config=config)
        # The next product waits for this one, and is not taken for it.
        x, y = lax.optimization_barrier((x, y))
      return y
    jax.block_until_ready(run(x, copies))
    times = []
    for _ in range(3):
      start = clock()
      jax.block_until_ready(run(x, copies))
      times.append(clock() - start)
    return min(times)

  tokens, features = x.shape
  best = min(_candidates(tokens, features, values.shape[0], _num_sms()
                         )[:candidates], key=seconds)
  _TUNED[_key(tokens, values.shape, x.dtype)] = best
  return best


def config_of(tokens: int, values_shape: tuple[int, ...],
              dtype: jax.typing.DTypeLike) -> Config | None:
  """The config that `tune` found for a product, or else that of `choose`.

  Returns `None` for an empty product.
  """
  outputs, kept = values_shape
  if not tokens * outputs * kept:
    return None
  return _TUNED.get(_key(tokens, values_shape, dtype)) or choose(
      tokens, 2 * kept, outputs, _num_sms())


def _key(tokens, values_shape, dtype):
  return (tokens, *values_shape, jnp.dtype(dtype).name, _device().device_kind)


def _device() -> Any:
  """The device that is described or else the default one."""
  described = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
  # Before jax 0.10 a description does not say of what platform.
  return described if hasattr(described, 'platform') else (
      jax.local_devices()[0])


def _num_sms() -> int:
  """Multiprocessors; those of an H200 where no GPU is at hand."""
  device = _device()
  return getattr(device, 'num_cores', None) or getattr(
      device, 'core_count', None) or 132


def _candidates(tokens, features, outputs, num_sms):
  """Configs that fit, the likeliest first."""
  narrow = next((c for c in (8, 16, 32, 64) if c >= tokens), None)
  if narrow:
    # The time is that of reading w: deep stages, as starting one costs, and a
    # block or a part of the contraction for every multiprocessor.
    shapes = [(64, 1, narrow, 256, 7), (64, 1, narrow, 256, 4),
              (64, 2, narrow, 256, 4), (64, 2, narrow, 256, 3),
              (64, 2, narrow, 128, 6), (128, 2, narrow, 128, 4)]
  else:
    # Wide instructions, as w is read from shared memory anew by each. 128
    # accumulators a thread is what two warpgroups have registers for.
    shapes = [(64, 1, 128, 128, 4), (64, 2, 128, 128, 4),
              (128, 2, 128, 128, 3), (64, 2, 256, 128, 2)]
  configs = [
      Config(*shape, split=split, cluster=cluster)
      for shape in shapes for split in (1, 2, 4, 8, 16)
      for cluster in ((1,) if narrow else (1, 2))
      # A part that is shorter than the pipeline does not fill it.
      if split == 1 or features // shape[3] // split >= shape[4]]
  configs = [c for c in configs if fits(c, features, outputs)]
  return sorted(
      configs, key=lambda c: _clocks(c, tokens, features, outputs, num_sms))


def _clocks(config, tokens, features, outputs, num_sms):
  """A guess at the clocks that a product takes on an H200, at 1.7 GHz.

  The slowest of what a step needs, from the data sheet and the literature,
  and not fitted to measurements: `tune` is there for that.
  """
  block_rows = config.rows * config.warpgroups
  tiles = -(-tokens // config.columns) * (outputs // block_rows) * config.split
  waves = -(-tiles // (num_sms // config.cluster * config.cluster))
  # An instruction reads 2 KB of w and 64 bytes a column of x, 128 a clock.
  shared = config.depth / 32 * block_rows / 64 * (16 + config.columns / 2)
  # A multiprocessor takes about 40 bytes a clock from L2, after about 900, and
  # a few hundred to ask for a stage.
  cache = config.depth * (
      1.125 * block_rows + 2 * config.columns / config.cluster) / 40
  latency = (900 + cache) / (config.stages - 1)
  step = max(shared, cache, latency, 600)
  # 4.2 TB/s of memory, over all multiprocessors.
  memory = (1.125 * features * outputs + 2 * tokens * (features + outputs)
            ) / 2500
  # Draining a tile; then the parts, written, read, and summed by a kernel.
  steps = features / config.depth / config.split
  clocks = max(waves * (steps * step + 1000), memory)
  if config.split > 1:
    clocks += 4000 + 8 * config.split * tokens * outputs / 2500
  return clocks


def _private():
  """Modules of Mosaic GPU and MLIR, with every name that is used of them."""
  if jax.__version_info__ < (0, 10):
    raise NotImplementedError(
        f'the Hopper kernel needs jax 0.10 or later, this is {jax.__version__}')
  try:
    from jax.experimental.mosaic.gpu import fragmented_array as fa
    from jax.experimental.mosaic.gpu import mma_utils
    from jax.experimental.pallas import mosaic_gpu as plgpu
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm
    from jaxlib.mlir.dialects import nvvm
    from jaxlib.mlir.dialects import vector
    for module, names in (
        (fa, ('FragmentedArray', 'WGMMA_LAYOUT', 'WGMMA_LAYOUT_ACC_32BIT',
              'optimization_barrier')),
        (mma_utils, ('encode_descriptor',)),
        (plgpu, ('inline_mgpu', 'nd_loop', 'planar_snake', 'kernel')),
        (nvvm, ('wgmma_fence_aligned', 'wgmma_commit_group_sync_aligned',
                'wgmma_wait_group_sync_aligned')),
        (llvm, ('inline_asm', 'extractvalue', 'StructType', 'add')),
        (vector, ('extract',)), (ir, ('VectorType', 'F32Type'))):
      for name in names:
        getattr(module, name)
  except (ImportError, AttributeError) as error:
    raise NotImplementedError(
        f'jax {jax.__version__} has no Mosaic GPU as the Hopper kernel knows '
        f'it ({error}); implementation=\'xla\' serves') from error
  return fa, mma_utils, plgpu, ir, llvm, nvvm, vector


def _multiply(acc, w_s, e_s, x_s, config, dtype):
  """`acc + w_s @ x_s.T`, in registers.

  It waits for its instructions, as CUTLASS does where it does not for dense
  operands: they might read their positions from registers as late as they read
  matrices, and the next stage's would overwrite these. Meanwhile the other
  warpgroup keeps the tensor cores busy.

  Args:
    acc: `[rows, columns]`, float32.
    w_s: `[rows, depth / 2]` kept entries, in shared memory.
    e_s: `[rows / 64, depth / 128, 256]` positions, in shared memory.
    x_s: `[columns, depth]` tokens, in shared memory.
    config: how the product is cut.
    dtype: of w and x.

  Returns:
    The new accumulator.
  """
  fa, mma_utils, plgpu, ir, llvm, nvvm, vector = _private()
  rows, columns, depth = config.rows, config.columns, config.depth
  count = columns // 2  # Registers of one 64-row instruction.
  name = _DTYPES[jnp.dtype(dtype).name]
  transforms = _swizzled(dtype)

  def instruction(acc, a, b, e, selector):
    """`wgmma.mma_async.sp` on 64 rows and 32 rows of w, 16 of them kept."""
    scalar = ir.VectorType.get((1,), ir.F32Type.get())
    out = ', '.join(f'${i}' for i in range(count))
    asm = (
        f'{{ .reg .pred p; setp.eq.b32 p, 0, 0;\n'
        f'wgmma.mma_async.sp.sync.aligned.m64n{columns}k32.f32.{name}.{name} '
        f'{{{out}}}, ${2 * count}, ${2 * count + 1}, ${2 * count + 2}, '
        f'{selector}, p, 1, 1, 0, 0; }}\n')
    constraints = ','.join(
        ['=f'] * count + [str(i) for i in range(count)] + ['l', 'l', 'r'])
    added: Any = llvm.inline_asm(
        llvm.StructType.get_literal([scalar] * count), [*acc, a, b, e], asm,
        constraints, asm_dialect=0, has_side_effects=True)
    return [llvm.extractvalue(scalar, added, [i]) for i in range(count)]

  def advance(descriptor, offset):
    """A descriptor of what lies some bytes on, counted in sixteens."""
    i64 = ir.IntegerType.get_signless(64)
    step = llvm.ConstantOp(i64, ir.IntegerAttr.get(i64, offset >> 4)).result
    return llvm.add(
        descriptor, step, overflow_flags=llvm.IntegerOverflowFlags.none)

  @plgpu.inline_mgpu(
      arg_types=(plgpu.Layout.WGMMA, plgpu.RefType(transforms),
                 plgpu.RefType(), plgpu.RefType(transforms)),
      return_type=plgpu.ShapeDtypeStruct(
          (rows, columns), jnp.float32, layout=plgpu.Layout.WGMMA))
  def multiply(_, acc, w_s, e_s, x_s):
    # Of each 256 words thread t holds two, 2 t and 2 t + 1.
    words = fa.FragmentedArray.load_strided(
        e_s, is_signed=True, vec_size=2).registers.reshape(rows // 64, -1)
    # Eight rows of 128 bytes are a swizzled kilobyte; those of the next 128
    # bytes follow it, and then those of the next eight rows.
    w = mma_utils.encode_descriptor(w_s, 0, 8 * depth, 128)
    x = mma_utils.encode_descriptor(x_s, 0, 16 * depth, 128)
    # For LLVM registers are values: the barriers keep it from writing them
    # behind the fence and from reading them before the wait.
    acc = fa.optimization_barrier(acc.to_layout(fa.WGMMA_LAYOUT_ACC_32BIT))
    registers = acc.registers.copy()
    nvvm.wgmma_fence_aligned()
    for i in range(rows // 64):
      part = list(registers[i].flat)
      for k in range(depth // 32):
        word = vector.extract(
            words[i, k // 4], dynamic_position=[],
            static_position=[k // 2 % 2])
        part = instruction(
            part, advance(w, 64 * depth * i + 1024 * (k // 4) + 32 * (k % 4)),
            advance(x, 1024 * (k // 2) + 64 * (k % 2)), word,
            # The lanes of a quad whose words are meant: 0 and 1, or 2 and 3.
            k % 2)
      registers[i] = np.array(part, object).reshape(registers[i].shape)
    nvvm.wgmma_commit_group_sync_aligned()
    nvvm.wgmma_wait_group_sync_aligned(0)
    return fa.optimization_barrier(fa.FragmentedArray(
        _registers=registers, _layout=acc.layout, _is_signed=None
    )).to_layout(fa.WGMMA_LAYOUT)
  return multiply(acc, w_s, e_s, x_s)


def _swizzled(dtype):
  """The transforms of matrices whose rows of 128 bytes are swizzled."""
  from jax.experimental.pallas import mosaic_gpu as plgpu
  return (plgpu.TilingTransform((8, 128 // jnp.dtype(dtype).itemsize)),
          plgpu.SwizzleTransform(128))


def _product(x, values, positions, out_dtype, config, num_sms):
  """`[split, T, N]` partial products of a T that tiles divide."""
  from jax.experimental import pallas as pl
  plgpu = _private()[2]
  (tokens, features), outputs = x.shape, values.shape[0]
  rows, warpgroups, columns, depth, stages, split, cluster, band = config
  block_rows = rows * warpgroups
  steps = features // depth // split
  grid = (outputs // block_rows // cluster, tokens // columns)
  tiles = math.prod(grid) * split
  blocks = min(num_sms // cluster, tiles)
  chunk = min(columns, _OUT_BYTES // (rows * jnp.dtype(out_dtype).itemsize))

  def kernel(w_g, e_g, x_g, y_g, w_s, e_s, x_s, y_s, full, empty):
    """Names end in where they are: global or shared memory; two barriers."""
    warpgroup = lax.axis_index('warpgroup')
    ours = pl.ds(warpgroup * rows, rows)

    def for_all_tiles(visit):
      """Calls `visit(steps before, part, row tile, column tile)`."""
      @plgpu.nd_loop((tiles,), collective_axes='block')
      def _tiles(info):
        (index,) = info.index
        row, column = plgpu.planar_snake(
            lax.div(index, jnp.int32(split)), grid, 0, band)
        visit(info.local_index * steps, lax.rem(index, jnp.int32(split)),
              row * cluster + lax.axis_index('neighbour'), column)

    def slot(step):
      return lax.rem(step, jnp.int32(stages))

    def memory():
      if warpgroups > 1:
        plgpu.set_max_registers(40, action='decrease')

      def visit(before, part, row, column):
        @pl.loop(0, steps)
        def _fetch(k):
          s = slot(before + k)
          at = part * steps + k

          @pl.when(before + k >= stages)
          def _():
            plgpu.barrier_wait(empty.at[s])
          plgpu.copy_gmem_to_smem(
              w_g.at[pl.ds(row * block_rows, block_rows),
                     pl.ds(at * (depth // 2), depth // 2)],
              w_s.at[s], full.at[s])
          plgpu.copy_gmem_to_smem(
              e_g.at[pl.ds(row * (block_rows // 64), block_rows // 64),
                     pl.ds(at * (depth // _ROWS), depth // _ROWS)],
              e_s.at[s], full.at[s])
          plgpu.copy_gmem_to_smem(
              x_g.at[pl.ds(column * columns, columns),
                     pl.ds(at * depth, depth)],
              x_s.at[s], full.at[s],
              collective_axes='neighbour' if cluster > 1 else None)
      for_all_tiles(visit)
      # A block must outlive what its neighbour says to its barriers.
      mine = lax.div(tiles - 1 - lax.axis_index('block'), jnp.int32(blocks)) + 1

      @pl.loop(lax.max(mine * steps - stages, 0), mine * steps)
      def _drain(step):
        plgpu.barrier_wait(empty.at[slot(step)])

    def compute():
      if warpgroups > 1:
        plgpu.set_max_registers(232, action='increase')

      def visit(before, part, row, column):
        def multiply(k, acc):
          s = slot(before + k)
          plgpu.barrier_wait(full.at[s])
          acc = _multiply(
              acc, w_s.at[s, ours],
              e_s.at[s, pl.ds(warpgroup * (rows // 64), rows // 64)],
              x_s.at[s], config, x.dtype)
          plgpu.barrier_arrive(empty.at[s])
          return acc
        acc = plgpu.layout_cast(
            jnp.zeros((rows, columns), jnp.float32), plgpu.Layout.WGMMA)
        acc = lax.fori_loop(0, steps, multiply, acc)
        for c in range(0, columns, chunk):
          plgpu.wait_smem_to_gmem(0, wait_read_only=True)
          y_s.at[warpgroup].T[...] = plgpu.layout_cast(
              acc[:, c:c + chunk].astype(out_dtype),
              plgpu.Layout.WGMMA_TRANSPOSED)
          plgpu.commit_smem()
          plgpu.copy_smem_to_gmem(
              y_s.at[warpgroup],
              y_g.at[part, pl.ds(column * columns + c, chunk),
                     pl.ds(row * block_rows + warpgroup * rows, rows)])
      for_all_tiles(visit)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    lax.cond(warpgroup < warpgroups, compute, memory)

  if cluster > 1:
    empty = plgpu.ClusterBarrier(
        collective_axes=('neighbour',), num_arrivals=warpgroups,
        num_barriers=stages)
  else:
    empty = plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages)
  return plgpu.kernel(
      kernel,
      out_type=jax.ShapeDtypeStruct((split, tokens, outputs), out_dtype),
      grid=(blocks,), grid_names=('block',),
      cluster=(cluster,), cluster_names=('neighbour',),
      num_threads=warpgroups + 1, thread_name='warpgroup',
      scratch_types=dict(
          w_s=plgpu.SMEM((stages, block_rows, depth // 2), x.dtype,
                         transforms=_swizzled(x.dtype)),
          e_s=plgpu.SMEM((stages, block_rows // 64, depth // _ROWS, 2 * _ROWS),
                         jnp.int32),
          x_s=plgpu.SMEM((stages, columns, depth), x.dtype,
                         transforms=_swizzled(x.dtype)),
          y_s=plgpu.SMEM((warpgroups, chunk, rows), out_dtype,
                         transforms=_swizzled(out_dtype)),
          full=plgpu.Barrier(num_arrivals=3, num_barriers=stages),
          empty=empty),
      compiler_params=plgpu.CompilerParams(
          lowering_semantics=plgpu.LoweringSemantics.Lane),
  )(values, positions, x)
