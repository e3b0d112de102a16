"""The networks whose encoders are timm's, by name.

Apart from :mod:`mtmd_core.networks.build`, which imports this when such a network is asked for: timm takes longer to import than
all else that a site's worker needs, and Att-UNet has no use for it.
"""

from .dense_unet import DenseUNet
from .efficient_unet import EfficientUNet
from .inception_unet import InceptionUNet
from .pretrained_unet import PretrainedUNet

PRETRAINED: dict[str, type[PretrainedUNet]] = {
    "inception_unet": InceptionUNet,
    "dense_unet": DenseUNet,
    "efficient_unet": EfficientUNet,
}
