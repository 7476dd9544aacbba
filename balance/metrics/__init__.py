"""The metrics of `/metrics`: `table` has each of them, and `collector` reads them when Prometheus asks."""
