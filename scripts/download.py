"""The same as `ena24ssd download`, for those who like to run a script: python scripts/download.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["download", *sys.argv[1:]]))
