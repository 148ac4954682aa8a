"""Speak the EC2 metadata protocol: crawl it (client), lay it out as files (cache), serve it (simulator)."""
