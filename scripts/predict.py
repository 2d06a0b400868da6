"""The same as `ena24ssd predict`, for those who like to run a script: python scripts/predict.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
