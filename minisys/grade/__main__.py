"""``python -m minisys.grade``, for machines without typer."""

import sys

from minisys.grade.command import main

sys.exit(main())
