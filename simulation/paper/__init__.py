"""The paper's own figures, to be shown beside this project's.

Source: Boutillon et al., "Generalizable multi-task, multi-domain deep segmentation of sparse pediatric imaging datasets via
multi-scale contrastive regularization and multi-joint anatomical priors", 2022, arXiv:2207.13502. The figures are copied
from its Tables 1 to 4 and section 5.2; its text and pictures are not here.

``table_1.csv``: networks, hyper-parameters, millions of trainable parameters (``individual``: of one of the K = 3 networks).
``tables_2_3.csv``: mean and standard deviation over 15 folds; Dice, sensitivity, specificity and RAVD in percent, surface
distances in mm.
``table_4.csv``: scores of 2D slices in percent, distances from their mean to the 84th (up) and 16th (down) percentile, and
p-values of Kolmogorov–Smirnov tests against dsl_msc_mjap of the same backbone (which has none).
``table_5_limits.csv``: limits that section 5.2 states of Table 5's cosine similarities, Att-UNet, all pairs of joints.

Names of networks and strategies are spelt as in the configuration.
"""
