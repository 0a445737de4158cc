"""Figures of the analyses that go block by block."""
