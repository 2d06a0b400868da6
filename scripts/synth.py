"""The same as `ena24ssd synth`, for those who like to run a script: python scripts/synth.py --help"""

import sys

from ena24ssd.cli import main

sys.exit(main(["synth", *sys.argv[1:]]))
