"""Export: a trained network as a program that other software runs, with all that a server has to know to feed it."""
