"""How features are judged: frozen features, k-NN, a linear classifier, and signs of collapse."""
