"""The steps at which methods move connections."""

from jaxsparse import flows
from jaxsparse import schedules


def end_of(total_steps: int, share: float, end: int | None, every: int, *,
           name: str = 'every') -> int:
  """The step at which moving connections ends, checked."""
  end = int(total_steps * share) if end is None else end
  if not 0 < every <= end <= total_steps:
    raise ValueError(
        f'No connection would move: {name}={every} and end={end} of '
        f'total_steps={total_steps}, all in steps, need 0 < {name} <= end <= '
        f'total_steps. Write e.g. {name}={max(total_steps // 100, 1)}.')
  return end


def check_shares(**shares: float) -> None:
  """Raises if a number is no share."""
  for name, share in shares.items():
    if not 0 <= share <= 1:
      raise ValueError(f'{name} is a share and lies in [0, 1], got {share}. '
                       f'For 30% write {name}=0.3.')


def fading(every: int, end: int) -> schedules.When:
  """Exchanges while a share fades: at its end there is nothing to exchange."""
  return schedules.every(every, begin=every, end=max(end - 1, every))


def replacing(flow: flows.Flow, when: schedules.When, name: str, every: int
              ) -> flows.Flow:
  """The flow of a method whose exchanges replace steps of the optimizer.

  Args:
    flow: without that.
    when: the steps that are replaced.
    name: of the method.
    every: its period.

  Returns:
    A flow in which the optimizer stands still at these steps.

  Raises:
    ValueError: if no step would be left.
  """
  if every == 1:
    raise ValueError(
        f'{name}(every=1) would replace every step of the weights, got '
        'replace_step=True. Write e.g. every=100, or replace_step=False.')
  return flow._replace(around=lambda inner: flows.hold_steps(inner, when))
