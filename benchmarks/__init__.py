"""How fast it is on a machine: the loader beside other routes and beside the model, preprocessing, a large index."""
