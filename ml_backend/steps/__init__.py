"""The steps of a turn, one module each, in the order of `cycle.py`: labels, images, training, choice, queue, advice."""
