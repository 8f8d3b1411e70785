"""The only room that knows Label Studio: its HTTP interface, its label configs, its queue and its images."""
