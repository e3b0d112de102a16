"""Encoders from timm: five features, at strides 2, 4, 8, 16 and 32 exactly."""

import timm
from torch import nn


def build_encoder(name: str) -> nn.Module:
    """A timm encoder with random weights: images [B, 3, H, W] → five features at strides 2 to 32."""
    return timm.create_model(name, pretrained=False, features_only=True)
