"""Reads updates and snapshots into the models of datamodel-code-generator and writes them back: FOLDER PAYLOADS.

Prints for each payload what came back, or null where the model refuses it.
"""

import json
import sys

folder, payloads = sys.argv[1:]
sys.path.insert(0, folder)
import models  # noqa: E402
from pydantic import ValidationError  # noqa: E402

for name, text in json.loads(payloads):
    try:
        print(getattr(models, name).model_validate_json(text).model_dump_json(exclude_unset=True))
    except ValidationError:
        print("null")
