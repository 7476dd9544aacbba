"""The process: its signals, its log and its start line."""
