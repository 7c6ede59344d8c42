from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecoderOptions(_message.Message):
    __slots__ = ("feature_key", "decoder_channels", "aspp_channels", "atrous_rates", "decoder_conv_type", "aspp_use_only_1x1_proj_conv")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    DECODER_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ASPP_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ATROUS_RATES_FIELD_NUMBER: _ClassVar[int]
    DECODER_CONV_TYPE_FIELD_NUMBER: _ClassVar[int]
    ASPP_USE_ONLY_1X1_PROJ_CONV_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    decoder_channels: int
    aspp_channels: int
    atrous_rates: _containers.RepeatedScalarFieldContainer[int]
    decoder_conv_type: str
    aspp_use_only_1x1_proj_conv: bool
    def __init__(self, feature_key: _Optional[str] = ..., decoder_channels: _Optional[int] = ..., aspp_channels: _Optional[int] = ..., atrous_rates: _Optional[_Iterable[int]] = ..., decoder_conv_type: _Optional[str] = ..., aspp_use_only_1x1_proj_conv: bool = ...) -> None: ...

class LowLevelOptions(_message.Message):
    __slots__ = ("feature_key", "channels_project")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_PROJECT_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    channels_project: int
    def __init__(self, feature_key: _Optional[str] = ..., channels_project: _Optional[int] = ...) -> None: ...

class HeadOptions(_message.Message):
    __slots__ = ("output_channels", "head_channels", "head_conv_type", "max_value_after_activation", "min_value_after_activation")
    OUTPUT_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEAD_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEAD_CONV_TYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_AFTER_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_AFTER_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    output_channels: int
    head_channels: int
    head_conv_type: str
    max_value_after_activation: float
    min_value_after_activation: float
    def __init__(self, output_channels: _Optional[int] = ..., head_channels: _Optional[int] = ..., head_conv_type: _Optional[str] = ..., max_value_after_activation: _Optional[float] = ..., min_value_after_activation: _Optional[float] = ...) -> None: ...

class InstanceOptions(_message.Message):
    __slots__ = ("enable", "low_level_override", "instance_decoder_override", "center_head", "regression_head", "next_regression_head")
    ENABLE_FIELD_NUMBER: _ClassVar[int]
    LOW_LEVEL_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_DECODER_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    CENTER_HEAD_FIELD_NUMBER: _ClassVar[int]
    REGRESSION_HEAD_FIELD_NUMBER: _ClassVar[int]
    NEXT_REGRESSION_HEAD_FIELD_NUMBER: _ClassVar[int]
    enable: bool
    low_level_override: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
    instance_decoder_override: DecoderOptions
    center_head: HeadOptions
    regression_head: HeadOptions
    next_regression_head: HeadOptions
    def __init__(self, enable: bool = ..., low_level_override: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., instance_decoder_override: _Optional[_Union[DecoderOptions, _Mapping]] = ..., center_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., regression_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., next_regression_head: _Optional[_Union[HeadOptions, _Mapping]] = ...) -> None: ...

class KMaXOptions(_message.Message):
    __slots__ = ("num_mask_slots", "pixel_decoder_stages", "decoder_layers", "decoder_drop_path_keep_prob", "high_resolution_stride", "semantic_decoder", "cluster_channels", "feed_forward_channels", "pixel_decoder_features", "pixel_decoder_dilation", "semantic_feature")
    class PixelDecoderStage(_message.Message):
        __slots__ = ("filters", "num_blocks", "type")
        class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            AXIAL: _ClassVar[KMaXOptions.PixelDecoderStage.Type]
            BOTTLENECK: _ClassVar[KMaXOptions.PixelDecoderStage.Type]
        AXIAL: KMaXOptions.PixelDecoderStage.Type
        BOTTLENECK: KMaXOptions.PixelDecoderStage.Type
        FILTERS_FIELD_NUMBER: _ClassVar[int]
        NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        filters: int
        num_blocks: int
        type: KMaXOptions.PixelDecoderStage.Type
        def __init__(self, filters: _Optional[int] = ..., num_blocks: _Optional[int] = ..., type: _Optional[_Union[KMaXOptions.PixelDecoderStage.Type, str]] = ...) -> None: ...
    NUM_MASK_SLOTS_FIELD_NUMBER: _ClassVar[int]
    PIXEL_DECODER_STAGES_FIELD_NUMBER: _ClassVar[int]
    DECODER_LAYERS_FIELD_NUMBER: _ClassVar[int]
    DECODER_DROP_PATH_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
    HIGH_RESOLUTION_STRIDE_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_DECODER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    FEED_FORWARD_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    PIXEL_DECODER_FEATURES_FIELD_NUMBER: _ClassVar[int]
    PIXEL_DECODER_DILATION_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_FEATURE_FIELD_NUMBER: _ClassVar[int]
    num_mask_slots: int
    pixel_decoder_stages: _containers.RepeatedCompositeFieldContainer[KMaXOptions.PixelDecoderStage]
    decoder_layers: _containers.RepeatedScalarFieldContainer[int]
    decoder_drop_path_keep_prob: float
    high_resolution_stride: int
    semantic_decoder: bool
    cluster_channels: int
    feed_forward_channels: int
    pixel_decoder_features: _containers.RepeatedScalarFieldContainer[str]
    pixel_decoder_dilation: int
    semantic_feature: str
    def __init__(self, num_mask_slots: _Optional[int] = ..., pixel_decoder_stages: _Optional[_Iterable[_Union[KMaXOptions.PixelDecoderStage, _Mapping]]] = ..., decoder_layers: _Optional[_Iterable[int]] = ..., decoder_drop_path_keep_prob: _Optional[float] = ..., high_resolution_stride: _Optional[int] = ..., semantic_decoder: bool = ..., cluster_channels: _Optional[int] = ..., feed_forward_channels: _Optional[int] = ..., pixel_decoder_features: _Optional[_Iterable[str]] = ..., pixel_decoder_dilation: _Optional[int] = ..., semantic_feature: _Optional[str] = ...) -> None: ...

class ModelOptions(_message.Message):
    __slots__ = ("backbone", "decoder", "deeplab_v3", "deeplab_v3_plus", "panoptic_deeplab", "motion_deeplab", "max_deeplab", "vip_deeplab", "initial_checkpoint", "restore_semantic_last_layer_from_initial_checkpoint", "restore_instance_last_layer_from_initial_checkpoint", "kmax")
    class BackboneOptions(_message.Message):
        __slots__ = ("name", "output_stride", "pretrained_weights", "use_squeeze_and_excite", "drop_path_keep_prob", "drop_path_schedule", "stem_width_multiplier", "backbone_width_multiplier", "backbone_layer_multiplier", "use_sac_beyond_stride", "squeeze_excite_gate", "stem_max_pool")
        class SqueezeExciteGate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            SIGMOID: _ClassVar[ModelOptions.BackboneOptions.SqueezeExciteGate]
            HARD_SIGMOID: _ClassVar[ModelOptions.BackboneOptions.SqueezeExciteGate]
        SIGMOID: ModelOptions.BackboneOptions.SqueezeExciteGate
        HARD_SIGMOID: ModelOptions.BackboneOptions.SqueezeExciteGate
        NAME_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_STRIDE_FIELD_NUMBER: _ClassVar[int]
        PRETRAINED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
        USE_SQUEEZE_AND_EXCITE_FIELD_NUMBER: _ClassVar[int]
        DROP_PATH_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
        DROP_PATH_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
        STEM_WIDTH_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
        BACKBONE_WIDTH_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
        BACKBONE_LAYER_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
        USE_SAC_BEYOND_STRIDE_FIELD_NUMBER: _ClassVar[int]
        SQUEEZE_EXCITE_GATE_FIELD_NUMBER: _ClassVar[int]
        STEM_MAX_POOL_FIELD_NUMBER: _ClassVar[int]
        name: str
        output_stride: int
        pretrained_weights: str
        use_squeeze_and_excite: bool
        drop_path_keep_prob: float
        drop_path_schedule: str
        stem_width_multiplier: float
        backbone_width_multiplier: float
        backbone_layer_multiplier: float
        use_sac_beyond_stride: int
        squeeze_excite_gate: ModelOptions.BackboneOptions.SqueezeExciteGate
        stem_max_pool: bool
        def __init__(self, name: _Optional[str] = ..., output_stride: _Optional[int] = ..., pretrained_weights: _Optional[str] = ..., use_squeeze_and_excite: bool = ..., drop_path_keep_prob: _Optional[float] = ..., drop_path_schedule: _Optional[str] = ..., stem_width_multiplier: _Optional[float] = ..., backbone_width_multiplier: _Optional[float] = ..., backbone_layer_multiplier: _Optional[float] = ..., use_sac_beyond_stride: _Optional[int] = ..., squeeze_excite_gate: _Optional[_Union[ModelOptions.BackboneOptions.SqueezeExciteGate, str]] = ..., stem_max_pool: bool = ...) -> None: ...
    class DeeplabV3Options(_message.Message):
        __slots__ = ("num_classes",)
        NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
        num_classes: int
        def __init__(self, num_classes: _Optional[int] = ...) -> None: ...
    class DeeplabV3PlusOptions(_message.Message):
        __slots__ = ("low_level", "num_classes")
        LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
        NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
        low_level: LowLevelOptions
        num_classes: int
        def __init__(self, low_level: _Optional[_Union[LowLevelOptions, _Mapping]] = ..., num_classes: _Optional[int] = ...) -> None: ...
    class PanopticDeeplabOptions(_message.Message):
        __slots__ = ("low_level", "instance", "semantic_head", "depth_head")
        LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_HEAD_FIELD_NUMBER: _ClassVar[int]
        DEPTH_HEAD_FIELD_NUMBER: _ClassVar[int]
        low_level: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
        instance: InstanceOptions
        semantic_head: HeadOptions
        depth_head: HeadOptions
        def __init__(self, low_level: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., instance: _Optional[_Union[InstanceOptions, _Mapping]] = ..., semantic_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., depth_head: _Optional[_Union[HeadOptions, _Mapping]] = ...) -> None: ...
    class MotionDeepLabOptions(_message.Message):
        __slots__ = ("low_level", "instance", "semantic_head", "motion_head")
        LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_HEAD_FIELD_NUMBER: _ClassVar[int]
        MOTION_HEAD_FIELD_NUMBER: _ClassVar[int]
        low_level: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
        instance: InstanceOptions
        semantic_head: HeadOptions
        motion_head: HeadOptions
        def __init__(self, low_level: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., instance: _Optional[_Union[InstanceOptions, _Mapping]] = ..., semantic_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., motion_head: _Optional[_Union[HeadOptions, _Mapping]] = ...) -> None: ...
    class MaXDeepLabOptions(_message.Message):
        __slots__ = ("pixel_space_head", "auxiliary_low_level", "auxiliary_semantic_head", "instance_discrimination_sample_k", "instance_discrimination_sample_temperature", "semantic_sample_k", "semantic_sample_temperature", "transformer_decoder_drop_path_keep_prob")
        PIXEL_SPACE_HEAD_FIELD_NUMBER: _ClassVar[int]
        AUXILIARY_LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
        AUXILIARY_SEMANTIC_HEAD_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_DISCRIMINATION_SAMPLE_K_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_DISCRIMINATION_SAMPLE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_SAMPLE_K_FIELD_NUMBER: _ClassVar[int]
        SEMANTIC_SAMPLE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
        TRANSFORMER_DECODER_DROP_PATH_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
        pixel_space_head: HeadOptions
        auxiliary_low_level: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
        auxiliary_semantic_head: HeadOptions
        instance_discrimination_sample_k: int
        instance_discrimination_sample_temperature: float
        semantic_sample_k: int
        semantic_sample_temperature: float
        transformer_decoder_drop_path_keep_prob: float
        def __init__(self, pixel_space_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., auxiliary_low_level: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., auxiliary_semantic_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., instance_discrimination_sample_k: _Optional[int] = ..., instance_discrimination_sample_temperature: _Optional[float] = ..., semantic_sample_k: _Optional[int] = ..., semantic_sample_temperature: _Optional[float] = ..., transformer_decoder_drop_path_keep_prob: _Optional[float] = ...) -> None: ...
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    DEEPLAB_V3_FIELD_NUMBER: _ClassVar[int]
    DEEPLAB_V3_PLUS_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    MOTION_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    MAX_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    VIP_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_SEMANTIC_LAST_LAYER_FROM_INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_INSTANCE_LAST_LAYER_FROM_INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    KMAX_FIELD_NUMBER: _ClassVar[int]
    backbone: ModelOptions.BackboneOptions
    decoder: DecoderOptions
    deeplab_v3: ModelOptions.DeeplabV3Options
    deeplab_v3_plus: ModelOptions.DeeplabV3PlusOptions
    panoptic_deeplab: ModelOptions.PanopticDeeplabOptions
    motion_deeplab: ModelOptions.MotionDeepLabOptions
    max_deeplab: ModelOptions.MaXDeepLabOptions
    vip_deeplab: ModelOptions.PanopticDeeplabOptions
    initial_checkpoint: str
    restore_semantic_last_layer_from_initial_checkpoint: bool
    restore_instance_last_layer_from_initial_checkpoint: bool
    kmax: KMaXOptions
    def __init__(self, backbone: _Optional[_Union[ModelOptions.BackboneOptions, _Mapping]] = ..., decoder: _Optional[_Union[DecoderOptions, _Mapping]] = ..., deeplab_v3: _Optional[_Union[ModelOptions.DeeplabV3Options, _Mapping]] = ..., deeplab_v3_plus: _Optional[_Union[ModelOptions.DeeplabV3PlusOptions, _Mapping]] = ..., panoptic_deeplab: _Optional[_Union[ModelOptions.PanopticDeeplabOptions, _Mapping]] = ..., motion_deeplab: _Optional[_Union[ModelOptions.MotionDeepLabOptions, _Mapping]] = ..., max_deeplab: _Optional[_Union[ModelOptions.MaXDeepLabOptions, _Mapping]] = ..., vip_deeplab: _Optional[_Union[ModelOptions.PanopticDeeplabOptions, _Mapping]] = ..., initial_checkpoint: _Optional[str] = ..., restore_semantic_last_layer_from_initial_checkpoint: bool = ..., restore_instance_last_layer_from_initial_checkpoint: bool = ..., kmax: _Optional[_Union[KMaXOptions, _Mapping]] = ...) -> None: ...
