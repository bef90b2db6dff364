"""The steps at which methods move connections."""

from jaxsparse import flows
from jaxsparse import schedules
from jaxsparse._utils import arguments


def end_of(total_steps: int, share: float, end: int | None, every: int, *,
           name: str = 'every', fades: bool = False) -> int:
  """The last step at which connections move, checked.

  If the moved share `fades` to 0, none move at the end itself.
  """
  end = int(total_steps * share) if end is None else end
  if not 0 < every <= end - fades or end > total_steps:
    raise ValueError(
        f'Connections would never move: expected 0 < {name} '
        f'{"<" if fades else "<="} end <= total_steps, all in steps'
        f'{", because none move at the end" if fades else ""}, '
        f'got {name}={every}, end={end} and '
        f'total_steps={total_steps}. Write e.g. '
        f'{name}={max(total_steps // 100, 1)}.')
  return end


def check_shares(**shares: float) -> None:
  """Raises if a number is no share."""
  for name, share in shares.items():
    if not arguments.may_hold((share >= 0) & (share <= 1)):
      raise ValueError(f'{name} must be a share in [0, 1], got {share}. '
                       f'For 30%, write {name}=0.3.')


def fading(every: int, end: int) -> schedules.When:
  """The steps of exchanges while a share fades to 0, without its last step."""
  return schedules.every(every, begin=every, end=end - 1)


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
        f'{name}(every=1, replace_step=True) would replace every step of the '
        'optimizer by an exchange. Write e.g. every=100, or '
        'replace_step=False.')
  return flow._replace(around=lambda inner: flows.hold_steps(inner, when))
