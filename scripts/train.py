"""The same as `ena24ssd train`, for those who like to run a script: python scripts/train.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
