"""`python -m dynclip.lab.agreement`."""

import sys

from dynclip.lab.agreement.command import main

sys.exit(main())
