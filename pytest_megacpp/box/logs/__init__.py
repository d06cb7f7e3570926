"""The log files of ranks: how large they get, which test wrote what, secrets taken out."""
