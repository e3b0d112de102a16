"""Pictures of finished runs, in the manner of the paper's Figures 5 to 8: one kind a file.

Dark on white; colours that the colour-blind tell apart.
"""
