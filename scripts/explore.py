"""The same as `ena24ssd explore`, for those who like to run a script: python scripts/explore.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["explore", *sys.argv[1:]]))
