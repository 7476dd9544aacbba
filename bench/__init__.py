"""The benchmark: this service beside the Node server that it replaces. `python -m bench --help`, and README.md here."""
