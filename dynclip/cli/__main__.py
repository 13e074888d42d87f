"""`python -m dynclip.cli`, for rules: the interpreter decides which environment, not the PATH."""

import sys

from dynclip.cli.commands import main

sys.exit(main())
