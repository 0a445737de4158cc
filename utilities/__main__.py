"""The command line of the package: ``python -m utilities VERB ...``."""

import sys

from utilities.cli.verbs import main

if __name__ == "__main__":
    sys.exit(main())
