"""Test claims of the papers against results; one file for each analysis."""
