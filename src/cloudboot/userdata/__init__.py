"""User data: bytes to parts, parts to one configuration and a set of scripts."""
