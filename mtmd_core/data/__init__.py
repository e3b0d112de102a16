"""Exams on disk, their slices, and batches of them."""
