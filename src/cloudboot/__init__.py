"""cloudboot: an early-boot agent for EC2 and clouds that speak its metadata protocol."""

__version__ = "0.1.0"
