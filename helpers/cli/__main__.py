"""`python -m helpers.cli`, to which runme.sh hands over."""

import sys

from . import main

sys.exit(main())
