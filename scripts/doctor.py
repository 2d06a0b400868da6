"""The same as `ena24ssd doctor`, for those who like to run a script: python scripts/doctor.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["doctor", *sys.argv[1:]]))
