"""The schedule of drop path (Huang et al. 2016, stochastic depth, sec. 3: linear decay)."""


def keep_prob(last: float, depth: int, max_depth: int) -> float:
  """Returns the probability 1 - (1 - last) * depth / max_depth that a residual is kept."""
  return 1.0 - (1.0 - last) * depth / max_depth
