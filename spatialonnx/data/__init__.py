"""Data sets: readers, preprocessing and the search / select / verify split."""
