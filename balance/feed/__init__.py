"""The log by `seq`: how snapshots get in, and how they get out again."""
