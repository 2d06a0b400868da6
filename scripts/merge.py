"""The same as `ena24ssd merge`, for those who like to run a script: python scripts/merge.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["merge", *sys.argv[1:]]))
