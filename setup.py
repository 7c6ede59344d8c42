"""Packaging. `pip install .` for use, `pip install -e ".[dev]"` for development."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / 'README.md'
# Directories of files that go with the package, as packages of these names.
SHIPPED = {f'deeplab2.{name}': name for name in ('configs', 'web') if (ROOT / name).is_dir()}
COMMANDS = {
  'train': 'deeplab2.trainer.train:main',
  'eval': 'deeplab2.trainer.train:evaluate',
  'predict': 'deeplab2.inference.predict:main',
  'export': 'deeplab2.inference.export:main',
  'convert': 'deeplab2.checkpoint.convert:main',
  'data': 'deeplab2.commands.build_tfrecords:main',
  'inspect': 'deeplab2.commands.inspect_data:main',
  'config': 'deeplab2.commands.check_config:main',
  'plot': 'deeplab2.commands.plot_run:main',
  'report': 'deeplab2.commands.report:main',
  'instances-to-panoptic': 'deeplab2.commands.instances_to_panoptic:main',
  'collapse-classes': 'deeplab2.commands.collapse_classes:main',
  'evaluate-predictions': 'deeplab2.evaluation.evaluate_predictions:main',
  'tune-thresholds': 'deeplab2.evaluation.tune_thresholds:main',
}

setuptools.setup(
  name='deeplab2-remax',
  version='0.1.0',
  description='Panoptic segmentation with kMaX-DeepLab and ReMaX on TensorFlow 2.',
  long_description=README.read_text(encoding='utf-8') if README.exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=[*setuptools.find_packages(include=['deeplab2', 'deeplab2.*']), *SHIPPED],
  package_dir=SHIPPED,
  package_data={
    'deeplab2': ['py.typed'],
    'deeplab2.config': ['*.proto', '*.pyi'],
    'deeplab2.data': ['classes/*.json'],
    'deeplab2.report': ['page.css', 'page.js'],
    **{package: ['**/*'] for package in SHIPPED},
  },
  entry_points={
    'console_scripts': [f'deeplab2-{name} = {main}' for name, main in COMMANDS.items()]
  },
  python_requires='>=3.11',
  install_requires=[
    'tensorflow~=2.20.0',
    'tf_keras~=2.20.0',
    'tf-models-official~=2.20.0',
    'absl-py>=1.4,<3',
    'gin-config>=0.5,<1',
    'h5py>=3.11,<4',
    'matplotlib>=3.8,<4',
    'numpy>=1.26,<3',
    'Pillow>=10',
    'protobuf>=5.28.3,<8',
    'pycocotools>=2.0.7,<3',
    'safetensors>=0.4.3,<1',
    'tqdm>=4.65,<5',
  ],
  extras_require={
    'litert': ['ai-edge-litert>=2.1,<3', 'ai-edge-quantizer>=0.10,<1'],
    'video': ['av>=14,<20'],
    'dev': [
      'ai-edge-litert>=2.1,<3',
      'ai-edge-quantizer>=0.10,<1',
      'av>=14,<20',
      'ipykernel>=6.29,<8',
      'mypy>=1.11,<3',
      'nbclient>=0.10,<1',
      'playwright>=1.50,<2',
      'pytest>=8,<10',
      'pytest-xdist>=3.5,<4',
      'ruff~=0.17.0',
      'scipy>=1.11,<2',
      'setuptools>=65',
      'tensorflow-serving-api~=2.20.0',
      'wheel',
    ],
  },
)
