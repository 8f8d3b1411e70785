"""What a project page tells of a project: pure functions, and queries of the store. Nothing here knows HTTP."""
