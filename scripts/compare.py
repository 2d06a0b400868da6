"""The same as `ena24ssd compare`, for those who like to run a script: python scripts/compare.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
