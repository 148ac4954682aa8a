"""The datasources, each a file of its own, loaded by name."""

ORDER = ("Ec2", "NoCloud", "None")
