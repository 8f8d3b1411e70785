"""Active learning for image classification, served to Label Studio as an ML backend."""

__version__ = "0.2.0"
