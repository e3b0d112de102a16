"""YAML only; read through ``mtmd_core.config_files``."""
