"""The same as `ena24ssd export`, for those who like to run a script: python scripts/export.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["export", *sys.argv[1:]]))
