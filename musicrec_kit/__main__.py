"""`python -m musicrec_kit` is `musicrec`."""

import sys

from musicrec_kit.cli import main

sys.exit(main())
