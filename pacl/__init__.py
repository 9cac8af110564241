"""A replication of PACL, patch aligned contrastive learning (Mukhoti et al., CVPR 2023); each module is one noun of it.

Importing the package imports none of its modules, so it stays quick: write `from pacl.model import VisionEmbedder`.
"""
