from deeplab2.config import dataset_pb2 as _dataset_pb2
from deeplab2.config import evaluator_pb2 as _evaluator_pb2
from deeplab2.config import model_pb2 as _model_pb2
from deeplab2.config import trainer_pb2 as _trainer_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union
from deeplab2.config.dataset_pb2 import DatasetOptions as DatasetOptions
from deeplab2.config.evaluator_pb2 import EvaluatorOptions as EvaluatorOptions
from deeplab2.config.model_pb2 import DecoderOptions as DecoderOptions
from deeplab2.config.model_pb2 import LowLevelOptions as LowLevelOptions
from deeplab2.config.model_pb2 import HeadOptions as HeadOptions
from deeplab2.config.model_pb2 import InstanceOptions as InstanceOptions
from deeplab2.config.model_pb2 import KMaXOptions as KMaXOptions
from deeplab2.config.model_pb2 import ModelOptions as ModelOptions
from deeplab2.config.trainer_pb2 import SolverOptions as SolverOptions
from deeplab2.config.trainer_pb2 import LossOptions as LossOptions
from deeplab2.config.trainer_pb2 import TrainerOptions as TrainerOptions

DESCRIPTOR: _descriptor.FileDescriptor

class ExperimentOptions(_message.Message):
    __slots__ = ("experiment_name", "model_options", "trainer_options", "train_dataset_options", "evaluator_options", "eval_dataset_options")
    EXPERIMENT_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAINER_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_DATASET_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EVAL_DATASET_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    experiment_name: str
    model_options: _model_pb2.ModelOptions
    trainer_options: _trainer_pb2.TrainerOptions
    train_dataset_options: _dataset_pb2.DatasetOptions
    evaluator_options: _evaluator_pb2.EvaluatorOptions
    eval_dataset_options: _dataset_pb2.DatasetOptions
    def __init__(self, experiment_name: _Optional[str] = ..., model_options: _Optional[_Union[_model_pb2.ModelOptions, _Mapping]] = ..., trainer_options: _Optional[_Union[_trainer_pb2.TrainerOptions, _Mapping]] = ..., train_dataset_options: _Optional[_Union[_dataset_pb2.DatasetOptions, _Mapping]] = ..., evaluator_options: _Optional[_Union[_evaluator_pb2.EvaluatorOptions, _Mapping]] = ..., eval_dataset_options: _Optional[_Union[_dataset_pb2.DatasetOptions, _Mapping]] = ...) -> None: ...
