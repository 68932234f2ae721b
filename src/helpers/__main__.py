"""``python -m helpers``: the ``elephant`` command."""

import sys

from helpers.cli import main

sys.exit(main())
