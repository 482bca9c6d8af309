"""Scalable self-supervised pretraining from unlabelled video and images, in JAX and Flax."""

__version__ = "0.1.0"
