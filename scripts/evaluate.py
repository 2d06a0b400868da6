"""The same as `ena24ssd evaluate`, for those who like to run a script: python scripts/evaluate.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
