"""What a config needs and costs on hardware that is not there: `ssljax plan`."""

from ssljax.plan.model import model_flops

__all__ = ["model_flops"]
