"""Turn results into matplotlib figures."""
