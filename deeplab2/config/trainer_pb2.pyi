from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SolverOptions(_message.Message):
    __slots__ = ("use_sync_batchnorm", "learning_policy", "base_learning_rate", "poly_learning_power", "poly_end_learning_rate", "warmup_steps", "optimizer", "weight_decay", "use_gradient_clipping", "clip_gradient_norm", "training_number_of_steps", "batchnorm_momentum", "batchnorm_epsilon", "backbone_learning_rate_multiplier", "adamw_weight_decay", "warmup_start_learning_rate", "backbone_layer_decay")
    USE_SYNC_BATCHNORM_FIELD_NUMBER: _ClassVar[int]
    LEARNING_POLICY_FIELD_NUMBER: _ClassVar[int]
    BASE_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    POLY_LEARNING_POWER_FIELD_NUMBER: _ClassVar[int]
    POLY_END_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    USE_GRADIENT_CLIPPING_FIELD_NUMBER: _ClassVar[int]
    CLIP_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    TRAINING_NUMBER_OF_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCHNORM_MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    BATCHNORM_EPSILON_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_LEARNING_RATE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    ADAMW_WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    WARMUP_START_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_LAYER_DECAY_FIELD_NUMBER: _ClassVar[int]
    use_sync_batchnorm: bool
    learning_policy: str
    base_learning_rate: float
    poly_learning_power: float
    poly_end_learning_rate: float
    warmup_steps: int
    optimizer: str
    weight_decay: float
    use_gradient_clipping: bool
    clip_gradient_norm: float
    training_number_of_steps: int
    batchnorm_momentum: float
    batchnorm_epsilon: float
    backbone_learning_rate_multiplier: float
    adamw_weight_decay: float
    warmup_start_learning_rate: float
    backbone_layer_decay: float
    def __init__(self, use_sync_batchnorm: bool = ..., learning_policy: _Optional[str] = ..., base_learning_rate: _Optional[float] = ..., poly_learning_power: _Optional[float] = ..., poly_end_learning_rate: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., optimizer: _Optional[str] = ..., weight_decay: _Optional[float] = ..., use_gradient_clipping: bool = ..., clip_gradient_norm: _Optional[float] = ..., training_number_of_steps: _Optional[int] = ..., batchnorm_momentum: _Optional[float] = ..., batchnorm_epsilon: _Optional[float] = ..., backbone_learning_rate_multiplier: _Optional[float] = ..., adamw_weight_decay: _Optional[float] = ..., warmup_start_learning_rate: _Optional[float] = ..., backbone_layer_decay: _Optional[float] = ...) -> None: ...

class LossOptions(_message.Message):
    __slots__ = ("semantic_loss", "center_loss", "regression_loss", "motion_loss", "next_regression_loss", "pq_style_loss", "mask_id_cross_entropy_loss", "instance_discrimination_loss", "depth_loss", "remask", "reclass", "mask_loss_activation", "mask_loss_all_slots")
    class Activation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SIGMOID: _ClassVar[LossOptions.Activation]
        SOFTMAX: _ClassVar[LossOptions.Activation]
    SIGMOID: LossOptions.Activation
    SOFTMAX: LossOptions.Activation
    class SingleLossOptions(_message.Message):
        __slots__ = ("name", "weight", "top_k_percent")
        NAME_FIELD_NUMBER: _ClassVar[int]
        WEIGHT_FIELD_NUMBER: _ClassVar[int]
        TOP_K_PERCENT_FIELD_NUMBER: _ClassVar[int]
        name: str
        weight: float
        top_k_percent: float
        def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., top_k_percent: _Optional[float] = ...) -> None: ...
    class ReMaskOptions(_message.Message):
        __slots__ = ("enable", "num_relaxed_layers", "identity_mapping", "stop_gradient", "semantic_activation", "class_activation", "semantic_loss", "semantic_sample_k", "semantic_sample_temperature", "head_channels", "gate_masks")
        ENABLE_FIELD_NUMBER: _ClassVar[int]
        NUM_RELAXED_LAYERS_FIELD_NUMBER: _ClassVar[int]
        IDENTITY_MAPPING_FIELD_NUMBER: _ClassVar[int]
        STOP_GRADIENT_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
        CLASS_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_LOSS_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_SAMPLE_K_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_SAMPLE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
        HEAD_CHANNELS_FIELD_NUMBER: _ClassVar[int]
        GATE_MASKS_FIELD_NUMBER: _ClassVar[int]
        enable: bool
        num_relaxed_layers: int
        identity_mapping: bool
        stop_gradient: bool
        semantic_activation: LossOptions.Activation
        class_activation: LossOptions.Activation
        semantic_loss: LossOptions.SingleLossOptions
        semantic_sample_k: int
        semantic_sample_temperature: float
        head_channels: int
        gate_masks: bool
        def __init__(self, enable: bool = ..., num_relaxed_layers: _Optional[int] = ..., identity_mapping: bool = ..., stop_gradient: bool = ..., semantic_activation: _Optional[_Union[LossOptions.Activation, str]] = ..., class_activation: _Optional[_Union[LossOptions.Activation, str]] = ..., semantic_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., semantic_sample_k: _Optional[int] = ..., semantic_sample_temperature: _Optional[float] = ..., head_channels: _Optional[int] = ..., gate_masks: bool = ...) -> None: ...
    class ReClassOptions(_message.Message):
        __slots__ = ("enable", "eta", "mask_activation", "normalization", "apply_to_unmatched", "renormalize_target")
        class Normalization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            CLASS_AREA: _ClassVar[LossOptions.ReClassOptions.Normalization]
            MASK_AREA: _ClassVar[LossOptions.ReClassOptions.Normalization]
        CLASS_AREA: LossOptions.ReClassOptions.Normalization
        MASK_AREA: LossOptions.ReClassOptions.Normalization
        ENABLE_FIELD_NUMBER: _ClassVar[int]
        ETA_FIELD_NUMBER: _ClassVar[int]
        MASK_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
        NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
        APPLY_TO_UNMATCHED_FIELD_NUMBER: _ClassVar[int]
        RENORMALIZE_TARGET_FIELD_NUMBER: _ClassVar[int]
        enable: bool
        eta: float
        mask_activation: LossOptions.Activation
        normalization: LossOptions.ReClassOptions.Normalization
        apply_to_unmatched: bool
        renormalize_target: bool
        def __init__(self, enable: bool = ..., eta: _Optional[float] = ..., mask_activation: _Optional[_Union[LossOptions.Activation, str]] = ..., normalization: _Optional[_Union[LossOptions.ReClassOptions.Normalization, str]] = ..., apply_to_unmatched: bool = ..., renormalize_target: bool = ...) -> None: ...
    SEMANTIC_LOSS_FIELD_NUMBER: _ClassVar[int]
    CENTER_LOSS_FIELD_NUMBER: _ClassVar[int]
    REGRESSION_LOSS_FIELD_NUMBER: _ClassVar[int]
    MOTION_LOSS_FIELD_NUMBER: _ClassVar[int]
    NEXT_REGRESSION_LOSS_FIELD_NUMBER: _ClassVar[int]
    PQ_STYLE_LOSS_FIELD_NUMBER: _ClassVar[int]
    MASK_ID_CROSS_ENTROPY_LOSS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_DISCRIMINATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_LOSS_FIELD_NUMBER: _ClassVar[int]
    REMASK_FIELD_NUMBER: _ClassVar[int]
    RECLASS_FIELD_NUMBER: _ClassVar[int]
    MASK_LOSS_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    MASK_LOSS_ALL_SLOTS_FIELD_NUMBER: _ClassVar[int]
    semantic_loss: LossOptions.SingleLossOptions
    center_loss: LossOptions.SingleLossOptions
    regression_loss: LossOptions.SingleLossOptions
    motion_loss: LossOptions.SingleLossOptions
    next_regression_loss: LossOptions.SingleLossOptions
    pq_style_loss: LossOptions.SingleLossOptions
    mask_id_cross_entropy_loss: LossOptions.SingleLossOptions
    instance_discrimination_loss: LossOptions.SingleLossOptions
    depth_loss: LossOptions.SingleLossOptions
    remask: LossOptions.ReMaskOptions
    reclass: LossOptions.ReClassOptions
    mask_loss_activation: LossOptions.Activation
    mask_loss_all_slots: bool
    def __init__(self, semantic_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., center_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., regression_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., motion_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., next_regression_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., pq_style_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., mask_id_cross_entropy_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., instance_discrimination_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., depth_loss: _Optional[_Union[LossOptions.SingleLossOptions, _Mapping]] = ..., remask: _Optional[_Union[LossOptions.ReMaskOptions, _Mapping]] = ..., reclass: _Optional[_Union[LossOptions.ReClassOptions, _Mapping]] = ..., mask_loss_activation: _Optional[_Union[LossOptions.Activation, str]] = ..., mask_loss_all_slots: bool = ...) -> None: ...

class TrainerOptions(_message.Message):
    __slots__ = ("num_checkpoints_to_keep", "save_checkpoints_steps", "save_summaries_steps", "steps_per_loop", "loss_options", "solver_options", "precision", "jit_compile", "recompute", "gradient_accumulation_steps", "ema_decay", "profile_steps")
    class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FLOAT32: _ClassVar[TrainerOptions.Precision]
        BFLOAT16: _ClassVar[TrainerOptions.Precision]
        FLOAT16: _ClassVar[TrainerOptions.Precision]
    FLOAT32: TrainerOptions.Precision
    BFLOAT16: TrainerOptions.Precision
    FLOAT16: TrainerOptions.Precision
    class Recompute(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[TrainerOptions.Recompute]
        BLOCKS: _ClassVar[TrainerOptions.Recompute]
    NONE: TrainerOptions.Recompute
    BLOCKS: TrainerOptions.Recompute
    NUM_CHECKPOINTS_TO_KEEP_FIELD_NUMBER: _ClassVar[int]
    SAVE_CHECKPOINTS_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAVE_SUMMARIES_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_LOOP_FIELD_NUMBER: _ClassVar[int]
    LOSS_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SOLVER_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    JIT_COMPILE_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    EMA_DECAY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_STEPS_FIELD_NUMBER: _ClassVar[int]
    num_checkpoints_to_keep: int
    save_checkpoints_steps: int
    save_summaries_steps: int
    steps_per_loop: int
    loss_options: LossOptions
    solver_options: SolverOptions
    precision: TrainerOptions.Precision
    jit_compile: bool
    recompute: TrainerOptions.Recompute
    gradient_accumulation_steps: int
    ema_decay: float
    profile_steps: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, num_checkpoints_to_keep: _Optional[int] = ..., save_checkpoints_steps: _Optional[int] = ..., save_summaries_steps: _Optional[int] = ..., steps_per_loop: _Optional[int] = ..., loss_options: _Optional[_Union[LossOptions, _Mapping]] = ..., solver_options: _Optional[_Union[SolverOptions, _Mapping]] = ..., precision: _Optional[_Union[TrainerOptions.Precision, str]] = ..., jit_compile: bool = ..., recompute: _Optional[_Union[TrainerOptions.Recompute, str]] = ..., gradient_accumulation_steps: _Optional[int] = ..., ema_decay: _Optional[float] = ..., profile_steps: _Optional[_Iterable[int]] = ...) -> None: ...
