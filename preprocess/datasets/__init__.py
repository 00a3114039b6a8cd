"""The readers of datasets: one module per layout, each with one function that returns a ``Listing``."""
