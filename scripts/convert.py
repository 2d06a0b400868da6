"""The same as `ena24ssd convert`, for those who like to run a script: python scripts/convert.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
