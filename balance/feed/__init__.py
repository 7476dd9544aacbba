"""The feed: snapshots are committed to it in batches, and published from it in the order of `seq`.

The modules, in the order in which a save passes them: `writer` (accepts saves, answers them, fails the overdue ones),
`pending` (the result of one save), `batcher` (cuts batches and appends them), `tail` (publishes, repairs gaps, and
polls for what other processes save, as often as `poll_schedule` has it), `recent` (the newest snapshots), `listeners`
(the transports). `feed` is what the transports ask; it has `replay` send what a client has missed.
"""
