"""What every backbone returns."""


def _stride(name, level):
  return 4 if level == 1 and name.startswith('convnext') else 2**level


def check_sizes(name, pyramid, batch, size):
  """Checks the strides of the features of `batch` images of `size`."""
  for level in range(1, 6):
    expected = (batch, *(-(-side // _stride(name, level)) for side in size))
    stage, activated = (getattr(pyramid, f'{kind}{level}') for kind in ('stage', 'res'))
    assert tuple(stage.shape[:3]) == tuple(activated.shape[:3]) == expected
