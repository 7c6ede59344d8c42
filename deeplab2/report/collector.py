"""Collects what a report needs while images are evaluated: all segments, panels of few images."""

import base64
from collections.abc import Mapping
import json
from typing import Any

import numpy as np

from deeplab2.data import datasets
from deeplab2.metrics import segments as segments_lib
from deeplab2.report import gallery as gallery_lib
from deeplab2.report import segments_file
from deeplab2.report import thumbnails
from deeplab2.trainer import evaluator


class Collector:
  """A metric (see trainer/reports.py) whose result are the lines of a segments file."""

  def __init__(self, info: datasets.DatasetInfo):
    """Starts empty.

    Args:
      info: the dataset that the maps speak of.
    """
    self._info = info
    self._gallery = gallery_lib.Gallery()
    self._lines: list[dict[str, Any]] = []
    self._panels: dict[int, dict[str, str]] = {}  # In base64, of all that were shown so far.

  def update(self, image: evaluator.EvaluatedImage) -> None:
    """Adds one image, which has labels."""
    if image.ground_truth is None:
      raise ValueError(f'Image {image.name!r} has no labels.')
    maps = image.maps
    found = segments_lib.compare(
      image.ground_truth,
      maps.panoptic,
      maps.semantic_scores,
      maps.instance_scores,
      self._info.label_space,
    )
    quality = found.quality()
    entry = segments_file.Image(
      image.name,
      image.ground_truth.shape,
      None if np.isnan(quality) else quality,
      found,
    )
    number = len(self._lines)
    self._lines.append(segments_file.as_line(entry))
    if self._show(number):
      drawn = thumbnails.draw(image.image, maps.panoptic, image.ground_truth, self._info)
      self._panels[number] = {
        name: base64.b64encode(content).decode() for name, content in drawn.items()
      }
      kept = self._gallery.reasons()
      self._panels = {n: drawn for n, drawn in self._panels.items() if n in kept}

  def _show(self, number):
    """Gives an image to the gallery; returns whether it is shown, as things stand."""
    line = self._lines[number]
    if line['quality'] is None:
      return False
    errors: dict[int, int] = {}
    for index, *_ in line['missed'] + line['extra']:
      errors[index] = errors.get(index, 0) + 1
    # Of equal names, as of records without one, each counts for itself.
    return self._gallery.add(number, f'{line["image"]}', line['quality'], errors)

  def result(self) -> list[dict[str, Any]]:
    """Returns the lines of all images so far, those of the gallery with their panels."""
    reasons = self._gallery.reasons()
    return [
      line
      if number not in reasons
      else {**line, 'shown': reasons[number], 'panels': self._panels[number]}
      for number, line in enumerate(self._lines)
    ]

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state that `set_state` takes: bytes of a JSON text, uint8."""
    text = json.dumps([self._lines, list(self._panels.items())])
    return {'lines': np.frombuffer(text.encode(), np.uint8)}

  def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `state` returned."""
    self._lines, panels = json.loads(arrays['lines'].tobytes())
    self._panels = {number: drawn for number, drawn in panels}
    self._gallery = gallery_lib.Gallery()
    for number in range(len(self._lines)):
      self._show(number)
