"""Encoders from timm: five features, at strides 2, 4, 8, 16 and 32 exactly."""

import timm
from torch import nn
from timm.models._efficientnet_blocks import SqueezeExcite as TSE
from .squeeze_excite import ExcitedProjection
import os

def build_encoder(name: str) -> nn.Module:
    """A timm encoder with random weights: images [B, 3, H, W] → five features at strides 2 to 32."""
    e= timm.create_model(name, pretrained=False, features_only=True)
    for m in e.modules():
        if isinstance(m,nn.SiLU): m.inplace=False
    for m in list(e.modules()):
        if isinstance(getattr(m,'se',None),TSE):
            n='conv_pwl' if hasattr(m,'conv_pwl') else 'conv_pw'
            setattr(m,n,ExcitedProjection(m.se.conv_reduce,m.se.conv_expand,getattr(m,n)))
            m.se=nn.Identity()
    return e
