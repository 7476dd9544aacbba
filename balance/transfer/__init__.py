"""Out and in again: what the routes and the commands of export and import have in common."""
