"""Networks that a model file may name, and the options that it may give them.

A model file comes from elsewhere, so it chooses neither code nor sizes: every class is on this list, and its
options are numbers, flags and names within bounds. None takes a path, an address, a function or weights of
others. Bounds are far above any use, and low enough that building a network without its weights costs little.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchmorph.errors import PatchMorphError, problems

Width = Annotated[int, Field(ge=1, le=1024)]
"""Channels of a layer."""
Depth = Annotated[int, Field(ge=1, le=16)]
"""Layers of a level, or heads of an attention layer."""
Level = Annotated[int, Field(ge=1, le=8)]
"""Voxels along a kernel or stride, or tokens along a window."""
Rate = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=8)]
Depths = Annotated[list[Depth], Field(min_length=1, max_length=8)]
Axes = Annotated[list[Level], Field(min_length=3, max_length=3)]
Levels = Annotated[list[Level | Axes], Field(max_length=8)]
Normalization = Annotated[str, Field(pattern="(?i)^(batch|group|instance|layer)$")]
Activation = Annotated[str, Field(pattern="(?i)^(elu|gelu|leakyrelu|mish|prelu|relu|selu|swish)$")]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _UNet(_Options):
    encoder: Widths = []
    decoder: Widths = []


class _Swin(_Options):
    embedding: Width = 32
    depths: Depths = []
    window: Level = 4
    decoder: Width = 32


class _Pyramid(_Options):
    channels: Widths = []
    hidden: Widths = []
    radius: Annotated[int, Field(ge=1, le=4)] = 1


class _AffineEncoder(_Options):
    channels: Annotated[list[Width], Field(min_length=1, max_length=16)] = []
    hidden: Width = 96


class _LayerOptions(_Options):
    """Of a normalization or an activation."""

    affine: bool = True
    alpha: float = 1.0
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    inplace: bool = False
    negative_slope: float = 0.01
    num_groups: Width = 8


Norm = Normalization | Annotated[tuple[Normalization, _LayerOptions], Field(strict=False)]
Act = Activation | Annotated[tuple[Activation, _LayerOptions], Field(strict=False)]


class _Monai(_Options):
    """Two patches in, a velocity out, in three dimensions."""

    in_channels: Literal[2]
    out_channels: Literal[3]
    spatial_dims: Literal[3] = 3


class _SegResNet(_Monai):
    init_filters: Width = 8
    dropout_prob: Rate | None = None
    act: Act = "relu"
    norm: Norm = "group"
    num_groups: Width = 8
    use_conv_final: bool = True
    blocks_down: Depths = []
    blocks_up: Depths = []
    upsample_mode: Literal["deconv", "nontrainable", "pixelshuffle"] = "nontrainable"


class _SwinUNETR(_Monai):
    feature_size: Width = 24
    depths: Depths = []
    num_heads: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=8)] = []
    window_size: Level = 7
    patch_size: Level = 2
    qkv_bias: bool = True
    mlp_ratio: Annotated[float, Field(gt=0, le=8)] = 4.0
    norm_name: Norm = "instance"
    drop_rate: Rate = 0.0
    attn_drop_rate: Rate = 0.0
    dropout_path_rate: Rate = 0.0
    normalize: bool = True
    patch_norm: bool = False
    use_checkpoint: bool = False
    downsample: Literal["merging", "mergingv2"] = "merging"
    use_v2: bool = False


class _UNETR(_Monai):
    img_size: Annotated[int, Field(ge=16, le=256)]
    feature_size: Width = 16
    hidden_size: Width = 768
    mlp_dim: Annotated[int, Field(ge=1, le=4096)] = 3072
    num_heads: Depth = 12
    proj_type: Literal["conv", "perceptron"] = "conv"
    norm_name: Norm = "instance"
    conv_block: bool = True
    res_block: bool = True
    dropout_rate: Rate = 0.0
    qkv_bias: bool = False


class _MonaiUNet(_Monai):
    channels: Widths
    strides: Levels
    kernel_size: Level | Levels = 3
    up_kernel_size: Level | Levels = 3
    num_res_units: Annotated[int, Field(ge=0, le=8)] = 0
    act: Act = "prelu"
    norm: Norm = "instance"
    dropout: Rate = 0.0
    bias: bool = True
    adn_ordering: Literal["NDA", "NAD", "AND", "ADN", "DNA", "DAN", "NA", "AN"] = "NDA"


class _AttentionUnet(_Monai):
    channels: Widths
    strides: Levels
    kernel_size: Level | Levels = 3
    up_kernel_size: Level | Levels = 3
    dropout: Rate = 0.0


class _BasicUNet(_Monai):
    features: Annotated[list[Width], Field(min_length=6, max_length=6)] = [32] * 6
    act: Act = "leakyrelu"
    norm: Norm = "instance"
    bias: bool = True
    dropout: Rate = 0.0
    upsample: Literal["deconv", "nontrainable", "pixelshuffle"] = "deconv"


class _DynUNet(_Monai):
    kernel_size: Levels
    strides: Levels
    upsample_kernel_size: Levels
    filters: Widths | None = None
    dropout: Rate | None = None
    norm_name: Norm = "instance"
    act_name: Act = "leakyrelu"
    deep_supervision: Literal[False] = False
    res_block: bool = False
    trans_bias: bool = False


OPTIONS: dict[str, type[BaseModel]] = {
    "unet": _UNet,
    "swin": _Swin,
    "pyramid": _Pyramid,
    "affine-encoder": _AffineEncoder,
    "monai.networks.nets:AttentionUnet": _AttentionUnet,
    "monai.networks.nets:BasicUNet": _BasicUNet,
    "monai.networks.nets:DynUNet": _DynUNet,
    "monai.networks.nets:SegResNet": _SegResNet,
    "monai.networks.nets:SwinUNETR": _SwinUNETR,
    "monai.networks.nets:UNETR": _UNETR,
    "monai.networks.nets:UNet": _MonaiUNet,
}
"""Options of each network on the list."""


def check_options(name: str, options: dict[str, Any], where: str) -> None:
    """Check what a file gives to a network on the list.

    Args:
        name: a key of `OPTIONS`.
        options: keyword arguments of the network.
        where: the file, for messages.

    Raises:
        PatchMorphError: an option that is not on the list, or out of bounds.
    """
    try:
        OPTIONS[name].model_validate(options)
    except ValidationError as error:
        raise PatchMorphError(
            f"options of network {name} must be ones that a file may give, got {problems(error)} in {where}"
        ) from None
