"""What all figures share; each experiment draws its figure from a finished table.

style   colours, sizes, and how a figure is saved
panels  the parts of figures: dots with intervals, chance beneath them, axes, captions, legends
"""
