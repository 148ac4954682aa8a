"""The same user data under Debian's cloud-init and under cloudboot, in the same tree: is it the same machine?"""
