"""Check an update before it is sent: pip install jsonschema."""

import json
from urllib.parse import urljoin
from urllib.request import urlopen

from jsonschema import Draft7Validator

index = "http://127.0.0.1:3000/api/protocol/v1/"
contract = json.load(urlopen(index))["data"]
bundle = json.load(urlopen(urljoin(index, contract["bundle"])))

checker = Draft7Validator({"$ref": "#/definitions/balance_update", "definitions": bundle["definitions"]})
update = {"onchain": {"rlb": 100074.99978, "usdt": 7656.36}, "onsite": {"rlb": 101132.407627, "usd": 7646.96}}
print([error.message for error in checker.iter_errors(update)] or "it is valid")
