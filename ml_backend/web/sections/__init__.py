"""The sections of a project's page, a module each; `listed` has them in their order."""
