"""Threads and processes: locks, and waiting that can be cancelled."""
