"""What does attention change in what a vision model learns? Tools to compare inner representations."""

__version__ = "0.1.0"
