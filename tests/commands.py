"""Commands of hpcsamp one after the other, in one start of the ranks: a JSON list of lists."""

import json
import sys

from hpcsamp.cli import app

for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
