"""The service that closes rounds, the launchers, the experiments and the command line."""
