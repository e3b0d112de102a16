"""Networks made of shared convolutions and domain-specific layers."""
