"""Predictions of an evaluation in COCO's formats, with the ids of the data set's own files.

  panoptic.json, panoptic/NAME.png   COCO's panoptic format; things have a `score`
  instances.json                     COCO's detection results: the things, as run lengths

COCO's server takes both, cityscapesscripts and panopticapi the former. Image ids follow from the
names of the records, as those of predict.
"""

from collections.abc import Callable
import json
import os

from absl import logging

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.data import panoptic_results
from deeplab2.data import stretched
from deeplab2.metrics import instance_ap
from deeplab2.trainer import evaluator

_DETECTIONS = 'detections'


class CocoResults:
  """Writes the images of one evaluation after the other."""

  def __init__(self, directory: Callable[[], str], info: datasets.DatasetInfo):
    """Creates a writer; nothing is written yet.

    Args:
      directory: returns that of the evaluation that goes on. What an interrupted one has left
        there is added to.
      info: the dataset.
    """
    self._directory = directory
    self._info = info
    self._originals = datasets.original_id_table(info)
    self._results: panoptic_results.Results | None = None
    self._path = ''
    self._names: dict[int | str, str] = {}  # By image id.

  def add(self, image: evaluator.EvaluatedImage) -> None:
    """Writes an image.

    Raises:
      UserError: a file cannot be written, or two images have one id.
    """
    results = self._open()
    name = os.path.basename(image.name)
    image_id = datasets.image_id(self._info, name)
    other = self._names.setdefault(image_id, image.name)
    if other != image.name:
      raise errors.UserError(
        f'{self._path}: images {other} and {image.name} have one image id, {image_id!r}.'
      )
    found = dict(
      instance_ap.detections(
        image.maps.panoptic,
        image.maps.semantic_scores,
        image.maps.instance_scores,
        self._info.label_space,
      )
    )
    results.add(
      name,
      stretched.unstretched(image.maps.panoptic),
      stamp=None,
      entry={'id': image_id, 'file_name': f'{name}.jpg'},
      scores={panoptic_id: detection['score'] for panoptic_id, detection in found.items()},
      notes={
        _DETECTIONS: [
          {
            'image_id': image_id,
            'category_id': int(self._originals[detection['category_id']]),
            'score': detection['score'],
            'segmentation': {
              'size': detection['segmentation']['size'],
              'counts': detection['segmentation']['counts'].decode('ascii'),
            },
          }
          for detection in found.values()
        ]
      },
    )

  def finish(self) -> None:
    """Completes the files; UserError if they cannot be written."""
    results = self._open()
    results.write_json()
    results.remove_half_written()
    found = [detection for notes in results.all_notes() for detection in notes[_DETECTIONS]]
    path = os.path.join(os.path.dirname(self._path), 'instances.json')
    files.write_whole(path, json.dumps(found).encode())
    logging.info(
      'Wrote %s with %d images, and %s with %d instances.',
      self._path,
      len(results),
      path,
      len(found),
    )
    self._results = None

  def _open(self):
    if self._results is None:
      directory = self._directory()
      files.make_directory(directory)
      self._path = os.path.join(directory, 'panoptic.json')
      self._names = {}
      self._results = panoptic_results.Results(
        self._path, self._info, {'evaluation': os.path.basename(directory)}
      )
    return self._results
