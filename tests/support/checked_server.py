"""`server.py` under the contract watcher (see `contract`): the process that tests start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from balance import cli
from tests.support import contract

if __name__ == "__main__":
    contract.install()
    sys.exit(cli.main(sys.argv[1:]))
