"""`python -m magcache.cli`."""

import sys

from .main import main

sys.exit(main())
