"""The same as `ena24ssd repeats`, for those who like to run a script: python scripts/repeats.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["repeats", *sys.argv[1:]]))
