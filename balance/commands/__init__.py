"""The commands of the program, one module each; `balance.cli` has the table of them."""
