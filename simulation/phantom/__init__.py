"""Paediatric joints made from bone geometry: images and labels that anyone can make again from a seed."""

from .datasets import write_datasets
from .exam import GENERATOR_VERSION, JOINT_NAMES, PhantomExam, make_exam

__all__ = ["GENERATOR_VERSION", "JOINT_NAMES", "PhantomExam", "make_exam", "write_datasets"]
