"""Figures of the analyses in class-embedding space."""
