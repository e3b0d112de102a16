"""Encoders from timm: five features, at strides 2, 4, 8, 16 and 32 exactly."""

import timm
from torch import nn
from timm.models._efficientnet_blocks import SqueezeExcite as TSE
from .squeeze_excite import SqueezeExcite
import os

def build_encoder(name: str) -> nn.Module:
    """A timm encoder with random weights: images [B, 3, H, W] → five features at strides 2 to 32."""
    e= timm.create_model(name, pretrained=False, features_only=True)
    for m in e.modules():
        if isinstance(m,nn.SiLU): m.inplace=False
    if 'NOSE' not in os.environ:
      for m in list(e.modules()):
        for n,c in m.named_children():
            if isinstance(c,TSE):
                s=SqueezeExcite(c.conv_reduce.in_channels,c.conv_reduce.out_channels); s.load_state_dict(c.state_dict())
                setattr(m,n,s)
    return e
