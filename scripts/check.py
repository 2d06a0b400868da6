"""The same as `ena24ssd check`, for those who like to run a script: python scripts/check.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["check", *sys.argv[1:]]))
