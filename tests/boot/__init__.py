"""Boot tests: containers and machines, on the bed in boot.bed."""
