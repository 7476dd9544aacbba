"""The benchmark: this service beside the Node server that it replaces. See `python -m bench --help`, and README.md."""
