"""The rest of a project, labelled by its model, with a certificate of how many of these labels can be wrong."""
