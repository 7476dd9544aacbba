"""The Balance Snapshot System: `python server.py` serves, `python server.py migrate` prepares a database.

`python server.py --help` lists the commands, which are in balance/commands/, and the settings. docs/architecture.md
has a drawing of the main parts, and its last section answers where each thing is done.
"""

import sys

if sys.version_info < (3, 11):  # older versions must be able to parse this file
    sys.exit(f"server.py: Python 3.11 or newer is needed, and this is {sys.version_info[0]}.{sys.version_info[1]}")

from balance.entry import main

if __name__ == "__main__":
    sys.exit(main())
