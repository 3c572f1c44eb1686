"""Picklable array-likes that plan, fetch and decode in ``__getitem__``."""
