"""The command line, ``python -m utilities VERB``: one file a verb, and the options that they share."""
