"""The same as `ena24ssd runs`, for those who like to run a script: python scripts/runs.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["runs", *sys.argv[1:]]))
