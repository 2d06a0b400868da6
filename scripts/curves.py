"""The same as `ena24ssd curves`, for those who like to run a script: python scripts/curves.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["curves", *sys.argv[1:]]))
