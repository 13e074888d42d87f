"""`python -m dynclip`, for rules: the interpreter decides which environment, not the PATH."""

import sys

from dynclip.cli import main

sys.exit(main())
