"""What has changed between two configurations, by hand."""

from google.protobuf import text_format

from deeplab2.config import changes
from deeplab2.config import config_pb2


def test_differences_of_messages():
  def parsed(text):
    return text_format.Parse(text, config_pb2.ExperimentOptions())

  one = parsed("""
    experiment_name: "a"
    model_options { backbone { name: "resnet50" } kmax {
      decoder_layers: [2, 2] pixel_decoder_stages { filters: 8 } } }""")
  other = parsed("""
    model_options { backbone { output_stride: 32 } kmax {
      decoder_layers: [2, 1] pixel_decoder_stages { filters: 9 } } max_deeplab {} }""")
  found = changes.differences(one, other)
  assert found.pop('model_options.max_deeplab') == ('(not set)', '{ ... }')
  # Set to its default is the same as not set: name and output_stride.
  found = {path: values for path, values in found.items() if 'max_deeplab' not in path}
  assert found == {
    'experiment_name': ('"a"', ''),
    'model_options.kmax.decoder_layers': ('[2, 2]', '[2, 1]'),
    'model_options.kmax.pixel_decoder_stages[0].filters': ('8', '9'),
  }
