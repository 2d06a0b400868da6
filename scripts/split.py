"""The same as `ena24ssd split`, for those who like to run a script: python scripts/split.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["split", *sys.argv[1:]]))
