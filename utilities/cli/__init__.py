"""The command line, ``python -m utilities VERB``: one file a verb, and the options that they share.

`verbs` finds the verb, `arguments` makes options of signatures, `opening` reads what models and images are named.
What is heavy is imported when it is needed, so that ``--help`` is quick.
"""
