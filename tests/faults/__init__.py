"""Tests of what fails or is abused: the database, the process, the machine, clients."""
